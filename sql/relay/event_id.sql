-- The id of an event: a UUID of version 8 (RFC 9562, section 5.8).
--
-- 122 bits of SHA-256 over what is fixed at commit: installation, transaction id, position, commit
-- time and the event's sequence number. So it costs the writer nothing, a redelivery has the same
-- one, and whoever sees some ids can't tell the others, for which he would need the installation's
-- id, which no message has. The relay makes the same in Python (Envelope in
-- pgoutbox/messages/envelope.py); this one is for people who read the outbox.
create or replace function pgoutbox.event_id(
    installation uuid, xid xid8, "position" bigint, committed_at timestamptz, seq bigint
) returns uuid
    language sql
    immutable
as $$
    -- One nested expression, so that inlining it doesn't compute the hash more than once. The
    -- bits set are version and variant.
    select pg_catalog.encode(pg_catalog.substring(
        pg_catalog.set_bit(pg_catalog.set_bit(pg_catalog.set_bit(pg_catalog.set_bit(
        pg_catalog.set_bit(pg_catalog.set_bit(
            pg_catalog.sha256(
                pg_catalog.uuid_send(installation)
                operator(pg_catalog.||) pg_catalog.xid8send(xid)
                operator(pg_catalog.||) pg_catalog.int8send("position")
                operator(pg_catalog.||) pg_catalog.timestamptz_send(committed_at)
                operator(pg_catalog.||) pg_catalog.int8send(seq)
            ),
            55, 1), 54, 0), 53, 0), 52, 0), 71, 1), 70, 0),
        1, 16), 'hex')::pg_catalog.uuid
$$;
