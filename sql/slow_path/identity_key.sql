-- The columns of the index that is a table's replica identity, in its order; null where none is.
--
-- From PostgreSQL's caches, which know of every ALTER TABLE that has committed, whatever the
-- transaction's snapshot. Columns that the index merely includes have no order.
create or replace function pgoutbox.identity_key(relation regclass) returns text[]
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select array_agg((parse_ident(pg_get_indexdef(i.index, number, false)))[1] order by number)
    from pg_get_replica_identity_index(relation) i (index)
    cross join generate_series(1, 32) number
    where pg_index_column_has_property(i.index, number, 'orderable')
$$;
