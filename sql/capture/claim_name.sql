-- Make a table the only one that is captured under the name that it bears.
--
-- What was captured under it before has been dropped, and then its entry becomes this table's; or
-- it bears another name and stays captured under that.
create or replace function pgoutbox.claim_name(relation regclass) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    other record;
begin
    for other in
        select s.relation, s.present_name
        from pgoutbox.table_state s
        where s.asked_name = pgoutbox.qualified_name(claim_name.relation)
          and s.relation <> claim_name.relation
    loop
        if other.present_name is not null then
            update pgoutbox.captured_table c
            set schema_name = n.nspname, table_name = r.relname
            from pg_class r join pg_namespace n on n.oid = r.relnamespace
            where c.relation = other.relation and r.oid = other.relation;
            perform pgoutbox.refresh_capture(other.relation);
            -- And of that name there was one that is gone.
            perform pgoutbox.forget_capture(s.relation)
            from pgoutbox.table_state s
            where s.asked_name = other.present_name and s.present_name is null;
        elsif exists (
            select from pgoutbox.captured_table c where c.relation = claim_name.relation
        ) then
            perform pgoutbox.forget_capture(other.relation);
        else
            update pgoutbox.captured_table c set relation = claim_name.relation
            where c.relation = other.relation;
        end if;
    end loop;
end
$$;
