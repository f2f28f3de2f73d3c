-- The columns of a row as the executor knows it, in the order of their keys, each with the
-- expression that renders it, of the row $1. Generated columns are left out, and those that aren't
-- among the `choice` (choice_of()).
--
-- Under READ COMMITTED the catalog tells. Else it isn't asked: the transaction reads it as it was
-- before an ALTER TABLE that has committed since, while its rows have the columns of now. The
-- parser knows these, as the executor does, but takes longer.
create or replace function pgoutbox.row_columns(relation regclass, choice jsonb)
    returns table (name text, expression text)
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    names text[];
    types regtype[];
begin
    if current_setting('transaction_isolation') like 'read %' then
        return query
        select a.attname::text, format(
            'pgoutbox.%s(($1).%I)',
            case when pgoutbox.treatment_of(a.attname::text, choice) = 'hashed' then 'wal_hashed'
                when to_regprocedure(format('pgoutbox.wal(%s)', a.atttypid::regtype)) is null
                then 'wal_text' else 'wal' end,
            a.attname)
        from pg_attribute a
        where a.attrelid = row_columns.relation and a.attnum > 0
          and not a.attisdropped and a.attgenerated = ''
          and pgoutbox.treatment_of(a.attname::text, choice) is not null
        order by a.attname collate "C";
        return;
    end if;
    execute format(
        'select array(
             select k from json_object_keys((
                 select row_to_json(t.*) from (select (null::%s).*) t
             )) k
             order by k collate "C"
         )', relation) into names;
    if not pgoutbox.is_insertable(relation, names) then
        names := array(
            select n from unnest(names) n where pgoutbox.is_insertable(relation, array[n])
        );
    end if;
    names := array(
        select n from unnest(names) n where pgoutbox.treatment_of(n, choice) is not null
        order by n collate "C"
    );
    if names = '{}' then
        return;
    end if;
    execute (
        select format(
            'select array[%s] from (select null::%s as r) t',
            string_agg(format('pg_typeof((r).%I)', n.name), ', ' order by n.place), relation)
        from unnest(names) with ordinality n (name, place)
    ) into types;
    return query
    select n.name, format(
        'pgoutbox.%s(($1).%I)',
        case when pgoutbox.treatment_of(n.name, choice) = 'hashed' then 'wal_hashed'
            when to_regprocedure(format('pgoutbox.wal(%s)', n.type)) is null
            then 'wal_text' else 'wal' end,
        n.name)
    from unnest(names, types) n (name, type);
end
$$;
