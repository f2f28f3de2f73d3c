-- The columns of a table that its events carry, in the order of their keys, each with the
-- expression that renders it. `settings` are those the expression depends on.
--
-- An expression fails where the column has another type than now, so that a capture function
-- made from it never renders a value as what it was before an ALTER TYPE.
--
-- Generated columns are left out, as logical replication does, and those that aren't chosen.
create or replace function pgoutbox.captured_columns(relation regclass, variable text)
    returns table (name text, expression text, settings text[])
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select
        a.attname::text,
        format(
            'pgoutbox.%s(pgoutbox.same(%s.%s, null::%I.%I))',
            case when c.treatment = 'hashed' then 'wal_hashed'
                when native.has_overload then 'wal' else 'wal_text' end,
            variable, pgoutbox.quoted_name(a.attname), n.nspname, t.typname
        ),
        case when native.has_overload and c.treatment = 'whole'
            then '{}' else pgoutbox.settings_of(a.atttypid) end
    from pgoutbox.choice_of(relation) choice
    join pg_attribute a on a.attrelid = relation
    join pg_type t on t.oid = a.atttypid
    join pg_namespace n on n.oid = t.typnamespace
    cross join lateral (
        select to_regprocedure(format('pgoutbox.wal(%s)', a.atttypid::regtype)) is not null
    ) native (has_overload)
    cross join lateral (
        select pgoutbox.treatment_of(a.attname::text, choice)
    ) c (treatment)
    where c.treatment is not null
      and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    order by a.attname collate "C"
$$;
