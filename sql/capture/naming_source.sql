-- The part of a partitioned table's capture function that names the event's table.
--
-- The function runs for the leaf, and the event goes under the name of the leaf where that is
-- captured itself, else of the nearest captured table above it. Leaves are told apart by oid,
-- unless all go under the root's name; one that was attached since is drift. So is a rename of a
-- table whose name stands here as a literal.
create or replace function pgoutbox.naming_source(relation regclass) returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    own_name constant text := replace(
        'event_facts.schema_name := @tg_table_schema); event_facts.table_name := @tg_table_name);',
        '@',
        case getdatabaseencoding() when 'SQL_ASCII' then 'pgoutbox.as_utf8(' else '(' end);
    source text := '';
    branch record;
begin
    for branch in
        select l.captured, l.leaves, n.nspname, c.relname
        from (
            select l.captured, l.leaves from pgoutbox.captured_leaves(relation) l
            union all
            select relation, null where not exists (select from pgoutbox.captured_leaves(relation))
        ) l
        left join pg_class c on c.oid = l.captured
        left join pg_namespace n on n.oid = c.relnamespace
        order by l.captured nulls first
    loop
        source := source || 'if ' || concat_ws(
            ' and ',
            'tg_relid operator(pg_catalog.=) any (' || quote_literal(branch.leaves::text)
                || '::pg_catalog.regclass[]::pg_catalog.oid[])',
            'pg_catalog.to_regclass(' || quote_literal(branch.captured::text)
                || ')::pg_catalog.oid operator(pg_catalog.=) '
                || quote_literal(branch.captured::text) || '::pg_catalog.regclass::pg_catalog.oid'
        ) || ' then ' || case when branch.captured is null then own_name
            else format(
                'event_facts.schema_name := %L; event_facts.table_name := %L;',
                pgoutbox.as_utf8(branch.nspname), pgoutbox.as_utf8(branch.relname)) end
            || E'\n            els';
    end loop;
    return source || 'e raise exception ''drift''; end if;';
end
$$;
