-- The slot of the ring in which a transaction that began at `began` keeps its rows.
--
-- Callers pass now(), which is the same throughout a transaction, so all rows of a
-- transaction lie in one slot and nothing has to be remembered for it. Capture functions work it
-- out for themselves (by_slot.sql).
create or replace function pgoutbox.slot(began timestamptz) returns smallint
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select (date_part('epoch', began)::bigint / r.period % r.slots)::smallint
    from pgoutbox.ring() r
$$;
