-- Why a message can't be emitted, as a sentence; null where it can.
--
-- The limits are NATS's: 64 MiB is the highest max_payload of a nats-server, which ends connections
-- for lines of more than 4,096 bytes, and a stream takes 64 KiB of headers. Half of these or less,
-- since topic, id and what the relay adds must fit, too.
create or replace function pgoutbox.why_not_emit(
    subject text, payload text, key text, headers jsonb
) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select case
        when subject is null or payload is null
        then 'emit needs a subject and a payload: neither may be null'
        when octet_length(subject) > 1000
        then format('the subject is too long: %s bytes, of at most 1000', octet_length(subject))
        when subject !~ E'^[^\\x01-\\x20\\x7f.]+(\\.[^\\x01-\\x20\\x7f.]+)*$'
        then format(
            'the subject %L can''t be published to: it must be tokens with a dot between them, '
            'without spaces, control characters or empty tokens', subject)
        when subject ~ '(^|[.])[*>]([.]|$)'
        then format('the subject %L has a wildcard: events go to one subject', subject)
        when octet_length(payload) > 67108864
        then format(
            'the payload is too large: %s bytes, of at most 67108864', octet_length(payload))
        when octet_length(key) > 2000
        then format('the key is too long: %s bytes, of at most 2000', octet_length(key))
        when key ~ E'[\\x01-\\x1f\\x7f]'
        then 'the key has a control character'
        when jsonb_typeof(headers) <> 'object'
        then 'the headers must be a JSON object of strings, such as {"Trace": "7"}'
        when octet_length(headers::text) > 16384
        then format(
            'the headers are too large: %s bytes, of at most 16384', octet_length(headers::text))
        when jsonb_typeof(headers) = 'object' then (
            select case
                when jsonb_typeof(h.value) <> 'string'
                then format('the header %L must be a string', h.name)
                when h.name !~ '^[!#$%&''*+.^_`|~0-9A-Za-z-]+$'
                then format(
                    '%L can''t be the name of a header: only letters, digits and !#$%%&''*+.^_`|~- '
                    'may stand in it', h.name)
                when h.name ~* '^(nats|pgoutbox)-'
                then format('the header %L is reserved: NATS or the relay sets such', h.name)
                when h.value #>> '{}' ~ E'[\\x01-\\x1f\\x7f]'
                then format('the header %L has a control character in its value', h.name)
            end
            from jsonb_each(headers) h (name, value)
            order by 1 nulls last
            limit 1
        )
    end
$$;
