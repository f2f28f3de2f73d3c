-- Give a role the right to see all of `pgoutbox status`, and no row's data.
create or replace function pgoutbox.grant_reader(role regrole) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgoutbox.grant_sight(role);
    execute format(
        'grant select on pgoutbox.relay_error, pgoutbox.relay_polling, pgoutbox.relay_pause,
             pgoutbox.resend, pgoutbox.transaction, pgoutbox.loss to %s', role);
    execute format(
        'grant select (slot, xid, seq) on pgoutbox.event_in_slot to %s', role);
    -- A subject may have a row's key in it, as the payload has its data.
    execute format(
        'grant select (relay, event_id, position, seq, schema_name, table_name, action, bytes,
             reason, number, size, retries, parked_at) on pgoutbox.parked to %s', role);
    -- Neither a last key nor an error, which may quote a row's data.
    execute format(
        'grant select (id, relay, relation, table_name, state, rows, asked_at)
             on pgoutbox.snapshot to %s', role);
    execute format(
        'grant execute on function
             pgoutbox.backlog(text), pgoutbox.outbox_bytes(),
             pgoutbox.is_led(pgoutbox.progress), pgoutbox.leader_lock(uuid),
             pgoutbox.sleep_lock_holders(), pgoutbox.ended_since(xid8[], bigint[]),
             pgoutbox.snapshot_parts(regclass)
         to %s', role);
end
$$;
