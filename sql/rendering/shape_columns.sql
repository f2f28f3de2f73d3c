-- The columns of a table that its events carry, as attributes of the type that renders its rows.
--
-- row_to_json() of that type writes a row as wal-listener does. There are five kinds of columns:
--   1. of a type that it writes as wal-listener does: as they are;
--   2. time stamps: without a time zone, in UTC. The Z is put in while reading (as_published.sql).
--      To that end the name of the attribute that follows begins with a control character;
--   3. "char": as JSON of its own, for it can be half a character;
--   4. hashed columns: as text;
--   5. all others: as text. concat() calls a type's output function; a cast would strip blanks from
--      char(n) and add a netmask to inet, and users can define others.
-- In `value` %s is the variable that holds the row. The last attribute is no column: after the last
-- one, too, a Z may be due.
create or replace function pgoutbox.shape_columns(relation regclass)
    returns table (place bigint, name text, attribute text, type text, value text)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select
        row_number() over (order by c.name collate "C"),
        c.name,
        case when lag(c.kind) over (order by c.name collate "C") = 'time stamp'
            then E'\x02' else '' end || c.name,
        case c.kind
            when 'as is' then format_type(c.type, null)
            when 'time stamp' then 'timestamp'
            when 'char' then 'json'
            else 'text' end,
        replace(case
            when c.kind = 'hashed'
            then 'case when @ is distinct from null '
                'then pgoutbox.keyed_hash(pg_catalog.concat(@)) end'
            when c.kind = 'as is' or c.type = 'timestamp'::regtype then '@'
            -- An interval as time zone is the cheapest way to UTC.
            when c.kind = 'time stamp' then 'pg_catalog.timezone(''0''::pg_catalog.interval, @)'
            when c.kind = 'char' then 'pgoutbox.wal(@)'
            when c.type = 'bytea'::regtype
            then E'E''\\\\x'' operator(pg_catalog.||) pg_catalog.encode(@, ''hex'')'
            -- IS DISTINCT FROM NULL is true for a composite value whose fields are all null.
            else 'case when @ is distinct from null then pg_catalog.concat(@) end' end,
            '@', '%1$s.' || replace(pgoutbox.quoted_name(c.name), '%', '%%'))
    from (
        select
            a.attname::text as name,
            a.atttypid as type,
            case
                when pgoutbox.treatment_of(a.attname::text, choice) = 'hashed' then 'hashed'
                when a.atttypid in (
                    'boolean'::regtype, 'smallint'::regtype, 'integer'::regtype,
                    'bigint'::regtype, 'text'::regtype, 'varchar'::regtype, 'uuid'::regtype,
                    'date'::regtype, 'time'::regtype, 'jsonb'::regtype
                ) then 'as is'
                when a.atttypid in ('timestamp'::regtype, 'timestamptz'::regtype)
                then 'time stamp'
                when a.atttypid = '"char"'::regtype then 'char'
                else 'text' end as kind
        from pgoutbox.choice_of(relation) choice
        join pg_attribute a on a.attrelid = relation
        where a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
          and pgoutbox.treatment_of(a.attname::text, choice) is not null
    ) c
$$;
