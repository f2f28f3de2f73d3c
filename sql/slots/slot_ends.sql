-- The last position in each slot of the ring that no transaction begins in now.
--
-- Null for a slot without transactions. A relay that finds the same one for as long as the
-- retention lasts, by its own clock, may rotate the slot: no clock that jumps shortens it.
create or replace function pgoutbox.slot_ends() returns table (slot integer, "position" bigint)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select ends.slot, ends.position
    from (
        select 0, max(t.position) from pgoutbox.transaction_0 t
        union all select 1, max(t.position) from pgoutbox.transaction_1 t
        union all select 2, max(t.position) from pgoutbox.transaction_2 t
        union all select 3, max(t.position) from pgoutbox.transaction_3 t
        union all select 4, max(t.position) from pgoutbox.transaction_4 t
    ) ends (slot, "position")
    where ends.slot <> pgoutbox.slot(pg_catalog.now())
$$;
