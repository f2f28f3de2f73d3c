-- The commit stage of a transaction of which pgoutbox.transaction says something out of the
-- ordinary (capture_unusual.sql), such as a context, and of one that finds a relay asleep.
--
-- The row that an earlier stage wrote is taken back; its position becomes a gap that nobody fills.
--
-- Where checks may be queued behind it, it only queues itself once more (commit_stage.sql).
create or replace function pgoutbox.commit_unusual_0(xid xid8, seq bigint) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    state constant text := coalesce(current_setting('pgoutbox.transaction', true), '');
    -- Patterns are the same for all transactions: compiling one takes longer than all the rest.
    is_ours constant boolean := starts_with(state, concat(xid, ' '));
    context constant text := case
        when state !~ '^[0-9]+ [0-9]+( lap)?$' then pgoutbox.transaction_context() end;
    traceparent constant text := left(current_setting('pgoutbox.traceparent', true), 56);
    first_seq bigint := seq;
begin
    if is_ours and state like '% lap' then
        perform set_config('pgoutbox.transaction', regexp_replace(state, ' lap$', ''), true);
        insert into pgoutbox.lap_0 (xid, seq) values (xid, seq);
        return;
    end if;
    if is_ours and state !~ '^[0-9]+ 1( |$)' then
        perform pgoutbox.put_in_order_0(xid, seq);
    end if;
    if is_ours and state like '% again' or state = 'done' then
        first_seq := coalesce(pgoutbox.withdraw_0(xid), seq);
    end if;
    perform set_config('pgoutbox.transaction', 'done', true);
    insert into pgoutbox.transaction_0
        (position, xid, first_seq, last_seq, committed_at, traceparent)
    values (
        nextval('pgoutbox.position_seq'),
        xid,
        first_seq,
        nextval('pgoutbox.event_seq'),
        clock_timestamp(),
        case when context is null then traceparent
            else concat(rpad(coalesce(traceparent, ''), 56), context) end
    );
    if not pg_try_advisory_xact_lock_shared(1885826914, 0) then
        perform pgoutbox.wake_relays();
    end if;
end
$$;
