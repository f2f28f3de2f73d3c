-- Fail where a snapshot of a table would: the condition is none of its rows, the schema's owner may
-- not read it, or a policy would keep rows from it. Reads nothing.
create or replace function pgoutbox.check_snapshot(relation regclass, condition text) returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set row_security = off
    set lock_timeout = '2s'
as $$
begin
    execute format(
        E'select 1 from %s as %I where (%s\n) limit 0',
        relation, (select c.relname from pg_class c where c.oid = check_snapshot.relation),
        coalesce(condition, 'true'));
end
$$;
