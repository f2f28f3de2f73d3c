-- Tables of these bare names that aren't captured, or that match a pattern that is kept, and those
-- that have taken the name of a captured one: what `install` without --table has to capture.
create or replace function pgoutbox.uncaptured(names text[])
    returns table (relation regclass, is_successor boolean)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select t.relation, false
    from pgoutbox.tables_named(names) t
    where not exists (select from pgoutbox.captured_table c where c.relation = t.relation)
    union all
    select m.relation, false
    from pgoutbox.pattern_matches() m
    where not m.is_captured and m.may_capture
    union all
    select s.relation, true
    from pgoutbox.captured_table c cross join pgoutbox.successor_of(c) s (relation)
    where s.relation is not null
$$;
