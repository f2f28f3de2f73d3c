-- Forget that a table is captured, and drop its capture function, which no trigger calls any more.
--
-- True where the table was captured. What names its rows from now on is made anew.
create or replace function pgoutbox.forget_capture(relation regclass) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    captured pgoutbox.captured_table;
    shape regtype;
begin
    delete from pgoutbox.captured_table c where c.relation = forget_capture.relation
    returning c.* into captured;
    if captured.relation is null then
        return false;
    end if;
    perform pgoutbox.refresh_capture(c.relation)
    from pgoutbox.captured_table c
    where exists (select from pg_class r where r.oid = forget_capture.relation) and (
        c.relation in (select pg_partition_ancestors(forget_capture.relation))
        or c.relation in (select p.relid from pg_partition_tree(forget_capture.relation) p));
    execute format('drop function if exists pgoutbox.capture_%s()', captured.number);
    execute format(
        'drop function if exists pgoutbox.capture_slowly_%s('
        'pgoutbox.event_facts, text, anyelement, anyelement)',
        captured.number);
    execute format(
        'drop function if exists pgoutbox.choose_%s(text, anyelement, anyelement)',
        captured.number);
    -- Nobody writes: the triggers were dropped under a lock that keeps writers out.
    for shape in
        select t.oid from pg_type t
        where t.typnamespace = 'pgoutbox'::regnamespace
          and t.typname ~ ('^shape_' || captured.number || '_[0-9a-f]+$')
    loop
        execute format('drop type %s', shape);
    end loop;
    return true;
end
$$;
