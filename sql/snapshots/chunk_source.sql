-- The query that reads a chunk of one table, `part`, of a snapshot of the captured table `root`.
--
-- In the order of the key, behind the values `last` (null: from the beginning), `max_rows` rows at
-- most, whether or not they meet the condition. Of each row: `own`, the key's values as text;
-- `is_beyond`, whether it stands behind the values `upto`; `data`, its JSON, null where it doesn't
-- meet the condition. A table without a key has places for values, and is read before `upto` only.
--
-- `a > 1, or a = 1 and b > 2` wouldn't be found by an index, and `(a, b) > (1, 2)` takes one
-- operator for all columns. So each of these cases is a query of its own, one after another.
create or replace function pgoutbox.chunk_source(
    root regclass, part regclass, last text[], upto text[], condition text,
    max_rows integer, slowly boolean
) returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    choice constant jsonb := pgoutbox.choice_of(root);
    ordering constant record := (select o from pgoutbox.snapshot_order(part) o);
    alias constant text := (select quote_ident(c.relname) from pg_class c where c.oid = root);
    columns constant text[] := array(
        select format('%s.%I', alias, c.name) from unnest(ordering.columns) c (name));
    -- For what a row is made of that can't be rendered at once.
    whole constant text := case when slowly
        then format(', %s::%s as "pgoutbox whole row"', alias, part) else '' end;
    place constant text := case when ordering.file is not null
        then format(', %s.ctid as "pgoutbox place"', alias) else '' end;
    depth integer := cardinality(columns);
    sources text[] := '{}';
    rendered text;
    is_beyond text := 'false';
begin
    if ordering.file is not null then
        sources := array[format(
            'select %s.*%s%s from only %s as %s where %s',
            alias, place, whole, part, alias,
            pgoutbox.places_before(alias, last[1]::tid, upto[1]::tid))];
        depth := 0;
    end if;
    loop
        exit when last is not null and depth = 0;
        sources := sources || format(
            '(select %s.*%s from only %s as %s%s order by %s limit %s)',
            alias, whole, part, alias,
            case when last is not null then ' where ' || (
                select string_agg(
                    format(
                        '%s %s %L::%s', columns[n],
                        case when n < depth then ordering.equal[n] else ordering.greater[n] end,
                        last[n], ordering.types[n]),
                    ' and ')
                from generate_series(1, depth) n
            ) else '' end,
            array_to_string(columns, ', '), max_rows);
        exit when last is null;
        depth := depth - 1;
    end loop;
    for n in reverse cardinality(upto)..1 loop
        is_beyond := format(
            '(%1$s %2$s %4$L::%5$s or %1$s %3$s %4$L::%5$s and %6$s)',
            columns[n], ordering.greater[n], ordering.equal[n], upto[n], ordering.types[n],
            is_beyond);
    end loop;
    rendered := case
        when slowly then (
            select format(
                'pgoutbox.render_row(%s."pgoutbox whole row", %L::text[], %L::text[])',
                alias, array_agg(c.name), array_agg(c.expression))
            from pgoutbox.row_columns(root, choice) c
        )
        else pgoutbox.capped_source(case
            when to_regtype((select t.name from pgoutbox.shape_type(root) t)) is null
            then pgoutbox.row_expression(root, alias)
            else pgoutbox.row_source(root, alias) end) end;
    -- Rendered below a subquery of its own: as_published() names its argument more than once.
    return format(
        'select s.own, s.is_beyond, pgoutbox.as_published(s.stored) as data from ('
        'select array[%s]::text[] as own, %s as is_beyond, case when %s then (%s)::text end'
        ' as stored from (select * from (%s) s limit %s) as %s offset 0) s',
        (select string_agg(format('concat(%s)', c.name), ', ') from unnest(columns) c (name)),
        is_beyond,
        '(' || coalesce(condition, 'true') || E'\n) and ' || case
            when not choice ? 'where' then 'true'
            when slowly then format(
                'pgoutbox.is_chosen(%L, %L, %s."pgoutbox whole row")',
                choice ->> 'where', choice -> 'types', alias)
            else format(
                E'(select (%s\n) from (select %s) row_of_table)',
                choice ->> 'where', pgoutbox.condition_columns(choice -> 'types', alias)) end,
        rendered,
        array_to_string(sources, ' union all '), max_rows, alias);
end
$$;
