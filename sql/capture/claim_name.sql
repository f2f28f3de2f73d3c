-- Make a table the only one that is captured under the name that it bears.
--
-- What was captured under it before has been dropped, and then its entry becomes this table's; or
-- it bears another name and stays captured under that. Unless it is a partition of this table now:
-- its rows are this table's, so that it needs no entry.
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
        if claim_name.relation in (select pg_partition_ancestors(other.relation)) then
            perform pgoutbox.release_table(other.relation);
        elsif other.present_name is not null then
            update pgoutbox.captured_table c
            set schema_name = n.nspname, table_name = r.relname
            from pg_class r join pg_namespace n on n.oid = r.relnamespace
            where c.relation = other.relation and r.oid = other.relation;
            perform pgoutbox.refresh_capture(other.relation);
            -- And of that name there was one that is gone.
            perform pgoutbox.release_table(s.relation)
            from pgoutbox.table_state s
            where s.asked_name = other.present_name and s.present_name is null;
        elsif exists (
            select from pgoutbox.captured_table c where c.relation = claim_name.relation
        ) then
            perform pgoutbox.release_table(other.relation);
        else
            update pgoutbox.captured_table c set relation = claim_name.relation
            where c.relation = other.relation;
        end if;
    end loop;
end
$$;
