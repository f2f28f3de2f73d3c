-- The facts of an event, as an expression of a capture function.
--
-- All are what they are: what they mean is only asked where a trigger changed captured rows
-- (put_in_order()), for each question costs every writer. A table's events carry the name that the
-- function was made for, unless that has changed (slow_source.sql), or a partition has one of its
-- own (naming_source.sql).
create or replace function pgoutbox.facts_source(relation regclass, action text) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format(
        'row(%L, %L, %s, tg_relid, pg_catalog.pg_trigger_depth(), '
        'new.ctid, new.cmin, new.xmax, old.ctid, old.cmax, old.xmin)::pgoutbox.event_facts',
        pgoutbox.as_utf8(n.nspname), pgoutbox.as_utf8(c.relname), action)
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.oid = relation
$$;
