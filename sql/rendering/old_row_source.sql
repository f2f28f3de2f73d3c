-- The part of a capture function that renders the row as it was before an UPDATE or DELETE, which
-- of the two the expression `action` tells.
--
-- With 'identity' as logical decoding gives it: all of it under REPLICA IDENTITY FULL, else
-- the key's columns at DELETE and where an UPDATE changed one of them. The identity can
-- change without a trace in the columns, so each such event asks for it: 5 us.
create or replace function pgoutbox.old_row_source(relation regclass, action text) returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    captured pgoutbox.captured_table;
    described pg_class;
    identity text[] := pgoutbox.identity_columns(relation);
    guard text;
    source text := 'null;';
    whole constant text := concat(
        'if not (' || pgoutbox.is_small_source(relation, 'old')
            || E') then raise exception ''large''; end if;\n                ',
        'old_row := ',
        pgoutbox.bounded_source(relation, pgoutbox.row_source(relation, 'old')), ';');
begin
    select c.* into strict captured
    from pgoutbox.captured_table c where c.relation = old_row_source.relation;
    select c.* into strict described from pg_class c where c.oid = relation;
    if captured.old_values = 'full' then
        return whole;
    end if;
    guard := case
        -- A leaf has an identity of its own, and other column numbers than the root.
        when described.relkind = 'p' then format(
            'pgoutbox.identity_columns(tg_relid) operator(pg_catalog.=) %L::pg_catalog.text[] and '
            '(select c.relreplident operator(pg_catalog.=) %L and not pgoutbox.is_outdated(c.xmax) '
            'from pg_catalog.pg_class c where c.oid operator(pg_catalog.=) tg_relid)',
            identity, described.relreplident)
        when pg_get_replica_identity_index(relation) is null then format(
            'pg_catalog.pg_get_replica_identity_index(tg_relid) is null and '
            '(select c.relreplident operator(pg_catalog.=) %L and not pgoutbox.is_outdated(c.xmax) '
            'from pg_catalog.pg_class c where c.oid operator(pg_catalog.=) tg_relid)',
            described.relreplident)
        else (
            select format(
                '(select i.indkey::pg_catalog.text operator(pg_catalog.=) %L '
                'from pg_catalog.pg_index i where i.indexrelid operator(pg_catalog.=) '
                'pg_catalog.pg_get_replica_identity_index(tg_relid)) is true',
                i.indkey::text)
            from pg_index i
            where i.indexrelid = pg_get_replica_identity_index(relation)
        ) end;
    if described.relreplident = 'f' then
        source := whole;
    elsif identity <> '{}' then
        source := format(
            E'if %s operator(pg_catalog.=) ''DELETE''\n'
            '                    or not pg_catalog.record_image_eq(row(%s), row(%s)) then\n'
            '                    old_row := %s;\n                end if;',
            action,
            (select string_agg('old.' || pgoutbox.quoted_name(n), ', ') from unnest(identity) n),
            (select string_agg('new.' || pgoutbox.quoted_name(n), ', ') from unnest(identity) n),
            -- Nobody looks at the sizes of these.
            pgoutbox.capped_source(pgoutbox.row_source(relation, 'old', identity))
        );
    end if;
    return format(
        E'if (%s) is not true then\n                    raise exception ''drift'';\n'
        '                end if;\n                %s',
        guard, source);
end
$$;
