-- The facts of an event, as an expression of a capture function.
--
-- All are what they are: what they mean is only asked where a trigger changed captured rows
-- (put_in_order()), for each question costs every writer. A table's events carry its name as it is
-- now, which is what the function was made for, or else what capture_slowly() found.
create or replace function pgoutbox.facts_source(relation regclass, action text) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format(
        'row(coalesce(%s, %L), coalesce(%s, %L), %s, tg_relid, pg_catalog.pg_trigger_depth(), '
        'new.ctid, new.cmin, new.xmax, old.ctid, old.cmax, old.xmin)::pgoutbox.event_facts',
        format(safe.form, 'event_schema'), pgoutbox.as_utf8(n.nspname),
        format(safe.form, 'event_table'), pgoutbox.as_utf8(c.relname), action)
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    cross join (
        select case getdatabaseencoding()
            when 'SQL_ASCII' then 'pgoutbox.as_utf8(%s)' else '%s' end as form
    ) safe
    where c.oid = relation
$$;
