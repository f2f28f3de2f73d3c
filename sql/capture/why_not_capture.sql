-- Why a relation can't be captured, as a sentence; null where it can.
create or replace function pgoutbox.why_not_capture(relation regclass) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select case
        when n.nspname in ('pg_catalog', 'information_schema', 'pg_toast', 'pgoutbox')
        then format('%s belongs to PostgreSQL or to pgoutbox', relation)
        when c.relkind not in ('r', 'p') then format('%s is %s, not a table', relation,
            case c.relkind
                when 'v' then 'a view'
                when 'm' then 'a materialized view'
                when 'f' then 'a foreign table'
                when 'S' then 'a sequence'
                when 'i' then 'an index'
                when 'I' then 'an index'
                when 'c' then 'a composite type'
                else 'something else' end)
        when c.relpersistence = 't' then format('%s is a temporary table', relation)
    end
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = relation
$$;
