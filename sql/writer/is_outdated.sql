-- Whether a row of a catalog that this transaction sees was replaced since its snapshot; `xmax`
-- is the row's. Inlined, so that an ordinary row costs one comparison.
create or replace function pgoutbox.is_outdated(xmax xid) returns boolean
    language sql
    stable
as $$ select xmax operator(pg_catalog.<>) '0'::pg_catalog.xid and pgoutbox.is_replaced(xmax) $$;
