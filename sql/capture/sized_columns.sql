-- The columns of a table whose values can be large; in `field` and `size`, %1$s is the variable
-- that holds the row. None that is generated: it can become a plain one, of which no trace is in
-- the shape that a capture function fits.
--
-- `size` is an expression for a value's size in bytes, found without reading the value; null where
-- the column isn't captured. Of text and bytes PostgreSQL knows the length, wherever and however
-- they are kept. Of all others it knows what they take in the table, which is less where they are
-- compressed.
create or replace function pgoutbox.sized_columns(relation regclass)
    returns table (name text, field text, size text, is_domain boolean)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select
        a.attname::text,
        f.field,
        case when pgoutbox.treatment_of(a.attname::text, choice) is not null then format(
            'pg_catalog.%s(%s)',
            case when pgoutbox.is_text_or_bytes(a.atttypid)
                then 'octet_length' else 'pg_column_size' end,
            f.field) end,
        t.typtype = 'd'
    from pgoutbox.choice_of(relation) choice
    join pg_attribute a on a.attrelid = relation
    join pg_type t on t.oid = a.atttypid
    cross join lateral (
        select format('%%1$s.%s', replace(pgoutbox.quoted_name(a.attname), '%', '%%'))
    ) f (field)
    where a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
      and t.typlen = -1
      and a.atttypid not in ('numeric'::regtype, 'inet'::regtype, 'cidr'::regtype)
      -- Up to 1,000 characters; four more are the header that PostgreSQL counts.
      and not (a.atttypid in ('varchar'::regtype, 'bpchar'::regtype)
          and a.atttypmod between 0 and 1004)
$$;
