-- The part of a capture function by which one trigger of ours leaves a partition's row to another.
--
-- Of those that fire for a row the first by name does the work: the root's, as long as the
-- partition is attached. It notes the row, and those that find their row noted do nothing. Which
-- triggers there are can't be asked: under REPEATABLE READ pg_trigger may show one that is gone.
-- Nothing for tables of which no other trigger of ours can have a row.
create or replace function pgoutbox.alone_source(relation regclass) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select concat(
        case when own.is_alone then format($alone$
    if tg_name operator(pg_catalog.=) %L
        and pg_catalog.current_setting('pgoutbox.row', true)
            operator(pg_catalog.=) pg_catalog.concat(tg_relid, tg_op, old.ctid, new.ctid)
    then
        return nothing;
    end if;$alone$, own.name) end,
        case when own.is_alone or cardinality(pgoutbox.captured_among(relation)) > 1 then $note$
    perform pg_catalog.set_config(
        'pgoutbox.row', pg_catalog.concat(tg_relid, tg_op, old.ctid, new.ctid), true);$note$ end
    )
    from (
        select n.name, r.relispartition or exists (
            select from pg_trigger t where t.tgrelid = r.oid and t.tgname = n.name
        ) as is_alone
        from pgoutbox.captured_table c
        join pg_class r on r.oid = c.relation
        cross join lateral (select ('00_pgoutbox_alone_' || c.number)::name as name) n
        where c.relation = alone_source.relation
    ) own
$$;
