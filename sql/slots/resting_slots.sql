-- The slots in which nothing has changed for as long as the retention lasts, and the last position
-- in each; null for one without transactions. Never the one in which transactions begin now.
--
-- How long a slot rests stands in pgoutbox.slot_rest, so it outlives whoever looks; written only
-- when a slot is found changed, so nothing is written while nothing happens. By the clock that
-- also says which slot is written to. `looked` is what that said at the caller's last look, and
-- `ago` how long that is by a clock that can't be set: what this one has jumped ahead isn't rest.
create or replace function pgoutbox.resting_slots(
    retention interval, looked timestamptz default null, ago interval default null
)
    returns table (slot integer, "position" bigint)
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    moment constant timestamptz := pg_catalog.clock_timestamp();
    current_slot constant integer := pgoutbox.slot(pg_catalog.now());
begin
    if moment - looked - ago > '1 minute' then
        -- Of several callers that notice a jump the first one is enough.
        update pgoutbox.slot_rest r set since = r.since + (moment - looked - ago)
        where r.since <= looked;
    end if;
    update pgoutbox.slot_rest r
    set "position" = ends."position", since = moment
    from (
        select 0, max(t.position) from pgoutbox.transaction_0 t
        union all select 1, max(t.position) from pgoutbox.transaction_1 t
        union all select 2, max(t.position) from pgoutbox.transaction_2 t
        union all select 3, max(t.position) from pgoutbox.transaction_3 t
        union all select 4, max(t.position) from pgoutbox.transaction_4 t
    ) ends (slot, "position")
    where r.slot = ends.slot and r.slot <> current_slot
      and (r."position" is distinct from ends."position" or r.since is null or r.since > moment);
    return query
        select r.slot, r."position"
        from pgoutbox.slot_rest r
        where r.slot <> current_slot and r.since <= moment - retention
          -- Not what is empty: events without a transaction are to be found by rotate().
          and (r."position" is not null
              or exists (select from pgoutbox.event_in_slot e where e.slot = r.slot))
        order by r.slot;
end
$$;
