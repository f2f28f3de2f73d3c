-- The part of an event id that all events of a transaction share: 20 hexadecimal digits.
--
-- An event id is a UUID of version 8 (RFC 9562, section 5.8): 72 bits of SHA-256 over what
-- is fixed at commit (installation, transaction id, position, commit time), and the low 48
-- bits of the event's sequence number. It costs the writer nothing, a redelivery has the
-- same one, and two clusters restored from one backup make different ones. The relay makes the
-- same in Python (Envelope in pgoutbox/messages/envelope.py); this one is for people who read
-- the outbox.
create or replace function pgoutbox.event_id_prefix(
    installation uuid, xid xid8, "position" bigint, committed_at timestamptz
) returns text
    language sql
    immutable
as $$
    -- One nested expression, so that inlining it doesn't compute the hash more than once. The
    -- digits set are version and variant.
    select pg_catalog.overlay(
        pg_catalog.overlay(
            pg_catalog.left(pg_catalog.encode(pg_catalog.sha256(
                pg_catalog.uuid_send(installation)
                operator(pg_catalog.||) pg_catalog.xid8send(xid)
                operator(pg_catalog.||) pg_catalog.int8send("position")
                operator(pg_catalog.||) pg_catalog.timestamptz_send(committed_at)
            ), 'hex'), 20),
            '8', 13
        ),
        '8', 17
    )
$$;
