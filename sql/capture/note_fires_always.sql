-- Note whether a table's triggers are to fire always, for those that are made anew: what
-- fire_always() does with the rights of this schema's owner.
create or replace function pgoutbox.note_fires_always(relation regclass, always boolean)
    returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgoutbox.require_owner(relation);
    update pgoutbox.captured_table c set fires_always = w.names
    from (
        select k.relation, case when always
            then array['00_pgoutbox', '00_pgoutbox_alone_' || k.number, '00_pgoutbox_truncate']
            else '{}' end as names
        from pgoutbox.captured_table k where k.relation = note_fires_always.relation
    ) w
    where c.relation = w.relation and not (
        c.fires_always @> w.names and c.fires_always <@ w.names);
    return found;
end
$$;
