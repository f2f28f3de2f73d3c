-- Give a role the rights that a relay needs, and no others.
create or replace function pgoutbox.grant_relay(role regrole) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgoutbox.grant_sight(role);
    execute pg_catalog.format(
        'grant select on pgoutbox.event, pgoutbox.event_in_slot, pgoutbox.transaction,
             pgoutbox.transaction_0, pgoutbox.transaction_1, pgoutbox.transaction_2,
             pgoutbox.transaction_3, pgoutbox.transaction_4, pgoutbox.outbox to %s', role);
    execute pg_catalog.format('grant insert, update on pgoutbox.progress to %s', role);
    execute pg_catalog.format(
        'grant select, insert, update, delete on pgoutbox.parked to %s', role);
    execute pg_catalog.format('grant select, delete on pgoutbox.parked_event to %s', role);
    execute pg_catalog.format(
        'grant select, insert, update on pgoutbox.largest_message to %s', role);
    execute pg_catalog.format(
        'grant select, insert, update, delete on pgoutbox.mark, pgoutbox.relay_error,
             pgoutbox.relay_polling, pgoutbox.relay_pause to %s', role);
    execute pg_catalog.format('grant select, insert, update on pgoutbox.loss to %s', role);
    execute pg_catalog.format('grant select, insert on pgoutbox.shard_key to %s', role);
    -- Not to ask for one: the condition runs with the rights of the schema's owner.
    execute pg_catalog.format(
        'grant select, update (state, place, chunk, rows, error, ended_at)
             on pgoutbox.snapshot to %s', role);
    execute pg_catalog.format('grant select, insert, update on pgoutbox.resend to %s', role);
    execute pg_catalog.format(
        'grant execute on function
             pgoutbox.next_batch(bigint, bigint[], bigint[], bigint, bigint, integer, bigint,
                 bigint, bigint, xid8[], bigint),
             pgoutbox.next_batch_described(bigint, bigint[], bigint[], bigint, bigint, integer,
                 bigint, boolean, jsonb, integer, integer, bigint, bigint, xid8[], bigint, boolean),
             pgoutbox.next_share(bigint, bigint[], bigint[], bigint, bigint, integer, bigint,
                 jsonb, integer, integer, bigint, bigint, xid8[], bigint),
             pgoutbox.as_published(text), pgoutbox.unpublishable(text),
             pgoutbox.value_in(text, text),
             pgoutbox.values_in(text, text[]),
             pgoutbox.unsent(bigint, bigint[], bigint[], bigint, bigint, integer, bigint, bigint,
                 bigint, xid8[], bigint),
             pgoutbox.event_at(bigint, bigint), pgoutbox.tidy_parked(),
             pgoutbox.parked_row(bigint, bigint, boolean, bigint),
             pgoutbox.count_events(bigint, bigint, bigint, integer),
             pgoutbox.table_keys(text, text), pgoutbox.key_columns(regclass, text),
             pgoutbox.event_id(uuid, xid8, bigint, timestamptz, bigint),
             pgoutbox.gap_holders(), pgoutbox.lead(text),
             pgoutbox.is_led(pgoutbox.progress), pgoutbox.leader_lock(uuid),
             pgoutbox.sleep_lock_holders(), pgoutbox.await_sleep_lock(),
             pgoutbox.begin_after(text, text[], text), pgoutbox.backlog(text),
             pgoutbox.shard_key_of(text, text, text), pgoutbox.begin_at(text, bigint),
             pgoutbox.resend_keys(pgoutbox.resend, bigint, bigint),
             pgoutbox.require_progress(oid, uuid, tid, xid),
             pgoutbox.advance(oid, tid, xid, bigint, bigint[], bigint[], bigint, bigint, bigint,
                 xid8[], bigint[], jsonb, jsonb, boolean),
             pgoutbox.keep_mark(text, jsonb, jsonb, boolean),
             pgoutbox.ended_since(xid8[], bigint[]),
             pgoutbox.is_sent(pgoutbox.progress, bigint, xid8, bigint),
             pgoutbox.read_chunk(uuid, text, jsonb, integer, bigint, boolean, boolean, text[],
                 integer, integer),
             pgoutbox.snapshot_parts(regclass), pgoutbox.ask_for_rows(text, text, text),
             pgoutbox.rewind_snapshots(text, bigint, uuid, jsonb, integer, bigint),
             pgoutbox.note_chunk(uuid, text, jsonb, integer, bigint, boolean),
             pgoutbox.rotate(integer), pgoutbox.outbox_bytes(),
             pgoutbox.resting_slots(interval, timestamptz, interval),
             pgoutbox.slot(timestamptz), pgoutbox.ring(), pgoutbox.mend_drift(),
             pgoutbox.capture_wanted(regclass, text[], text, boolean, jsonb),
             pgoutbox.asked_choice(text, text[], text[], text[]),
             pgoutbox.merged_choice(jsonb, jsonb),
             pgoutbox.tables_named(text[]), pgoutbox.uncaptured(text[])
         to %s', role);
end
$$;
