-- The captured columns of a table whose values can be large, each with an expression for how many
-- bytes a value has, which doesn't read it; in `size`, %1$s is the variable that holds the row.
--
-- Of text and bytes PostgreSQL knows the length, wherever and however they are kept (`is_length`).
-- Of all others it knows what they take in the table, which is less where they are compressed.
create or replace function pgoutbox.sized_columns(relation regclass)
    returns table (name text, size text, is_length boolean)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select
        a.attname::text,
        format(
            'pg_catalog.%s(%%1$s."%s")',
            case when s.is_length then 'octet_length' else 'pg_column_size' end,
            replace(replace(a.attname, '"', '""'), '%', '%%')),
        s.is_length
    from pgoutbox.choice_of(relation) choice
    join pg_attribute a on a.attrelid = relation
    join pg_type t on t.oid = a.atttypid
    cross join lateral (
        select pgoutbox.base_type(a.atttypid) in (
            'text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'bytea'::regtype)
    ) s (is_length)
    where a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
      and pgoutbox.treatment_of(a.attname::text, choice) is not null
      and t.typlen = -1
      and a.atttypid not in ('numeric'::regtype, 'inet'::regtype, 'cidr'::regtype)
      -- Up to 1,000 characters; four more are the header that PostgreSQL counts.
      and not (a.atttypid in ('varchar'::regtype, 'bpchar'::regtype)
          and a.atttypmod between 0 and 1004)
$$;
