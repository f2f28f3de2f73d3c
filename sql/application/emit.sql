-- Put a message of the application's own into the outbox, as part of its transaction.
--
-- It stands among the events of row changes where it was emitted, and is published below the
-- relay's topic, with `payload` as it is. `key` tells whose event it is, for sharded relays and for
-- consumers that CloudEvents tells; `headers` is a JSON object of strings. All in one JSON object,
-- whose fields a relay reads (pgoutbox/messages/emitted.py); in the outbox it is an event without a
-- table, and its action is EMIT.
--
-- What NATS wouldn't take is refused here (why_not_emit.sql), so that it is the caller's error; a
-- subject that the relay's stream doesn't have is known only there, and is parked.
create or replace function pgoutbox.emit(
    subject text, payload text, key text default null, headers jsonb default null
) returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    problem constant text := pgoutbox.why_not_emit(subject, payload, key, headers);
    -- The depth is that of an ordinary event, also where a trigger emits: no row has to be found.
    facts constant pgoutbox.event_facts := row(
        '', '', 'EMIT', null, 1, null, null, null, null, null, null);
    content text;
begin
    if problem is not null then
        raise exception '%', problem using errcode = 'invalid_parameter_value';
    end if;
    -- Written as rows are, so that value_in() finds the key.
    content := pgoutbox.as_utf8(row_to_json(r)::text)
    from (select emit.subject, emit.key, emit.headers, emit.payload) r;
    perform pgoutbox.capture_unusual(pgoutbox.slot(now()), facts, content, null);
end
$$;

-- The same for content that is JSON by its type.

create or replace function pgoutbox.emit(
    subject text, payload jsonb, key text default null, headers jsonb default null
) returns void
    language sql
    set search_path = pg_catalog, pg_temp
as $$ select pgoutbox.emit(subject, payload::text, key, headers) $$;

create or replace function pgoutbox.emit(
    subject text, payload json, key text default null, headers jsonb default null
) returns void
    language sql
    set search_path = pg_catalog, pg_temp
as $$ select pgoutbox.emit(subject, payload::text, key, headers) $$;
