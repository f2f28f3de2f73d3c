-- The slot of the ring in which a transaction that began at `began` keeps its rows.
--
-- Callers pass now(), which is the same throughout a transaction, so all rows of a
-- transaction lie in one slot and nothing has to be remembered for it. The period and the
-- number of slots are fixed: a change while transactions are open would tear them apart.
create or replace function pgoutbox.slot(began timestamptz) returns smallint
    language sql
    stable
as $$
    select ((pg_catalog.date_part('epoch', began)::pg_catalog.int8 operator(pg_catalog./) 900)
            operator(pg_catalog.%) 5)::pg_catalog.int2
$$;
