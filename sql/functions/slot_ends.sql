-- The last position in each slot of the ring that no transaction begins in now.
--
-- Null for a slot without transactions. A relay that finds the same one for as long as the
-- retention lasts, by its own clock, may rotate the slot: no clock that jumps shortens it.
create or replace function pgoutbox.slot_ends() returns table (slot integer, "position" bigint)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select s, (select max(t.position) from pgoutbox.transaction t where t.slot = s)
    from pg_catalog.generate_series(0, 4) s
    where s <> pgoutbox.slot(pg_catalog.now())
$$;
