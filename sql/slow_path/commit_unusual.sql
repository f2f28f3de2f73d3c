-- The commit stage of a transaction that has something out of the ordinary: it was open again
-- after an earlier stage, a trigger changed captured rows, or there is a traceparent.
--
-- The earlier stage's row is taken back; its position becomes a gap that nobody fills.
create or replace function pgoutbox.commit_unusual_0(xid xid8, seq bigint) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    closed constant text := pg_catalog.current_setting('pgoutbox.closed', true);
    first_seq bigint := seq;
begin
    if pg_catalog.current_setting('pgoutbox.nested', true) = 'on' then
        perform pgoutbox.put_in_order_0(xid, seq);
    end if;
    -- Anything else is somebody else's idea of the setting. Not left to an exception handler:
    -- each would be a subtransaction that writes.
    if closed ~ '^o?[0-9]{1,18}$' then
        delete from pgoutbox.transaction_0 t
        where t.position = pg_catalog.ltrim(closed, 'o')::bigint
          and t.xid = commit_unusual_0.xid
        returning t.first_seq into first_seq;
    end if;
    insert into pgoutbox.transaction_0
        (position, xid, first_seq, last_seq, committed_at, lazy, traceparent)
    values (
        pg_catalog.nextval('pgoutbox.position_seq'),
        xid,
        coalesce(first_seq, seq),
        pg_catalog.nextval('pgoutbox.event_seq'),
        pg_catalog.clock_timestamp(),
        pg_catalog.current_setting('synchronous_commit') = 'off',
        -- Whatever somebody has set; a good one has 55 characters.
        pg_catalog.left(pg_catalog.current_setting('pgoutbox.traceparent', true), 56)
    );
    perform pg_catalog.set_config(
        'pgoutbox.closed', pg_catalog.currval('pgoutbox.position_seq')::text, true);
    if not pg_catalog.pg_try_advisory_xact_lock_shared(1885826914, 0) then
        perform pgoutbox.wake_relays();
    end if;
end
$$;
