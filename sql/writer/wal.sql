-- A value as JSON in the format of wal-listener 2.11 (internal/listener/transaction/data.go).
--
-- The type table of the wire format: one overload for each type that wal-listener renders
-- natively, and the last one for all others. Overloads are chosen when an expression is
-- parsed and their bodies are inlined, and a column whose type was altered gets the rendering
-- of its new type by itself. None depends on a setting of the writer's session. Types that
-- have no overload of their own go through wal_text(), also domains: to wal-listener they
-- are types that it doesn't know. Some return json, which spares a conversion.

create or replace function pgoutbox.wal(value boolean) returns text
    language sql stable
as $$ select coalesce(value::pg_catalog.text, 'null') $$;

create or replace function pgoutbox.wal(value smallint) returns text
    language sql stable
as $$ select coalesce(value::pg_catalog.text, 'null') $$;

create or replace function pgoutbox.wal(value integer) returns text
    language sql stable
as $$ select coalesce(value::pg_catalog.text, 'null') $$;

create or replace function pgoutbox.wal(value bigint) returns text
    language sql stable
as $$ select coalesce(value::pg_catalog.text, 'null') $$;

create or replace function pgoutbox.wal(value text) returns json
    language sql stable
as $$ select coalesce(pg_catalog.to_json(value), 'null'::pg_catalog.json) $$;

create or replace function pgoutbox.wal(value varchar) returns json
    language sql stable
as $$ select coalesce(pg_catalog.to_json(value), 'null'::pg_catalog.json) $$;

create or replace function pgoutbox.wal(value uuid) returns json
    language sql stable
as $$ select coalesce(pg_catalog.to_json(value), 'null'::pg_catalog.json) $$;

-- to_json() of dates and times is ISO 8601 whatever DateStyle says.
create or replace function pgoutbox.wal(value date) returns json
    language sql stable
as $$ select coalesce(pg_catalog.to_json(value), 'null'::pg_catalog.json) $$;

create or replace function pgoutbox.wal(value time) returns json
    language sql stable
as $$ select coalesce(pg_catalog.to_json(value), 'null'::pg_catalog.json) $$;

create or replace function pgoutbox.wal(value jsonb) returns text
    language sql stable
as $$ select coalesce(value::pg_catalog.text, 'null') $$;

-- RFC 3339 with Z, as Go's time.Time is marshalled, trailing zeros dropped. In UTC whatever
-- the session's time zone; an interval as time zone is the cheapest way there.

create or replace function pgoutbox.wal(value timestamp) returns text
    language sql stable
as $$
    select case
        when value operator(pg_catalog.>=) '0001-01-01' and value operator(pg_catalog.<) 'infinity'
        then pg_catalog.rtrim(pg_catalog.to_json(value)::pg_catalog.text, '"')
            operator(pg_catalog.||) 'Z"'
        when value is null then 'null'
        else pgoutbox.wal_timestamp_beyond(value) end
$$;

create or replace function pgoutbox.wal(value timestamptz) returns text
    language sql stable
as $$
    select case
        when value operator(pg_catalog.>=) '0001-01-01 00:00:00+00'
            and value operator(pg_catalog.<) 'infinity'
        then pg_catalog.rtrim(
            pg_catalog.to_json(
                pg_catalog.timezone('0'::pg_catalog.interval, value)
            )::pg_catalog.text, '"'
        ) operator(pg_catalog.||) 'Z"'
        when value is null then 'null'
        else pgoutbox.wal_timestamp_beyond(pg_catalog.timezone('0'::pg_catalog.interval, value)) end
$$;

-- The types below are text to wal-listener. The overload of bytea keeps a setting out; the
-- others are for columns whose type was altered to one that is cast to text implicitly.

create or replace function pgoutbox.wal(value bytea) returns text
    language sql stable
as $$
    select coalesce(
        E'"\\\\x' operator(pg_catalog.||) pg_catalog.encode(value, 'hex')
            operator(pg_catalog.||) '"',
        'null')
$$;

create or replace function pgoutbox.wal(value bpchar) returns json
    language sql stable
as $$ select pgoutbox.wal_text(value) $$;

create or replace function pgoutbox.wal(value name) returns json
    language sql stable
as $$ select pgoutbox.wal_text(value) $$;

-- Before PostgreSQL 15 a byte above 127 is written as it is: no text where a character takes
-- several. No escape then but in UTF8: PostgreSQL can't read those back (next_batch_described.sql).
-- In an SQL_ASCII database as_utf8() sees to it.
create or replace function pgoutbox.wal(value "char") returns json
    language sql stable
as $$
    select case
        when value::pg_catalog.int4 operator(pg_catalog.>=) 0
            or pg_catalog.octet_length(pg_catalog.concat(value)) operator(pg_catalog.<>) 1
            or pg_catalog.pg_encoding_max_length(
                pg_catalog.pg_char_to_encoding(pg_catalog.getdatabaseencoding())
            ) operator(pg_catalog.=) 1
        then pgoutbox.wal_text(value)
        when pg_catalog.getdatabaseencoding() operator(pg_catalog.=) 'UTF8' then E'"\\ufffd"'
        else '"?"' end
$$;

create or replace function pgoutbox.wal(value anyelement) returns json
    language sql stable
as $$ select pgoutbox.wal_text(value) $$;
