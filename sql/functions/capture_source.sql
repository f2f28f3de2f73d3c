-- The body of a captured table's capture function.
--
-- Generated, so that a row costs one expression with a fixed list of columns. Everything in
-- it is qualified down to the operators, since a SET search_path clause costs up to 14 us a
-- call. Three guards lead to capture_slowly():
--   1. has_column_privilege() of the next column number is null until a column is added
--      (a look-up in the system cache, no query);
--   2. the settings that show in this table's values are as they should be;
--   3. the expressions stand in a block with an exception handler, which catches columns
--      that were dropped, renamed or given a type that cannot be cast. It writes nothing,
--      so its subtransaction gets no transaction id.
-- On partitions the function runs for the leaf, whose column numbers can differ: guard 1
-- then asks for the root, which also notices that the root was renamed.
create or replace function pgoutbox.capture_source(relation regclass) returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    captured pgoutbox.captured_table;
    described pg_catalog.pg_class;
    root text;
    guards text[];
    identity text[];
    old_expression text;
    old_statement text;
    schema_expression text := 'tg_table_schema';
    table_expression text := 'tg_table_name';
    leaves text;
begin
    select c.* into strict captured from pgoutbox.captured_table c where c.relation = capture_source.relation;
    select c.* into strict described from pg_catalog.pg_class c where c.oid = relation;

    -- Guard 1.
    root := pg_catalog.format('%L', relation::text);
    guards := array[pg_catalog.format(
        'pg_catalog.has_column_privilege(%s, %s::pg_catalog.int2, ''SELECT'') is null',
        case when described.relkind = 'p' then root || '::pg_catalog.regclass::pg_catalog.oid' else 'tg_relid' end,
        described.relnatts + 1
    )];
    if described.relkind = 'p' then
        guards := guards || pg_catalog.format(
            'pg_catalog.to_regclass(%1$s)::pg_catalog.oid operator(pg_catalog.=) %1$s::pg_catalog.regclass::pg_catalog.oid',
            root
        );
        select pg_catalog.format('%L::pg_catalog.text', n.nspname), pg_catalog.format('%L::pg_catalog.text', described.relname)
        into schema_expression, table_expression
        from pg_catalog.pg_namespace n where n.oid = described.relnamespace;
        select pg_catalog.string_agg(pg_catalog.format(
            '(tg_table_schema operator(pg_catalog.=) %L and tg_table_name operator(pg_catalog.=) %L)',
            leaf ->> 0, leaf ->> 1
        ), ' or ')
        into leaves
        from pg_catalog.jsonb_array_elements(pgoutbox.named_leaves(relation)) leaf;
        if leaves is not null then
            schema_expression := pg_catalog.format('case when %s then tg_table_schema::pg_catalog.text else %s end', leaves, schema_expression);
            table_expression := pg_catalog.format('case when %s then tg_table_name::pg_catalog.text else %s end', leaves, table_expression);
        end if;
    end if;

    -- Guard 2.
    guards := guards || array(
        select case setting
            when 'extra_float_digits' then 'pg_catalog.current_setting(''extra_float_digits'')::pg_catalog.int4 operator(pg_catalog.>) 0'
            when 'DateStyle' then 'pg_catalog.starts_with(pg_catalog.current_setting(''DateStyle''), ''ISO'')'
            when 'IntervalStyle' then 'pg_catalog.current_setting(''IntervalStyle'') operator(pg_catalog.=) ''postgres'''
            when 'TimeZone' then 'pg_catalog.current_setting(''TimeZone'') operator(pg_catalog.=) ''UTC'''
            when 'bytea_output' then 'pg_catalog.current_setting(''bytea_output'') operator(pg_catalog.=) ''hex'''
            when 'lc_monetary' then pg_catalog.format(
                'pg_catalog.current_setting(''lc_monetary'') operator(pg_catalog.=) %L', pgoutbox.monetary_locale())
            -- Names of objects are written as a session's search_path finds them.
            else 'false' end
        from (
            select distinct pg_catalog.unnest(c.settings) as setting
            from pgoutbox.captured_columns(relation, 'new') c order by 1
        ) needed
    );

    old_expression := pgoutbox.row_expression(relation, 'old');
    if captured.old_values = 'identity' and described.relreplident <> 'f' then
        identity := pgoutbox.identity_columns(relation);
        old_expression := pgoutbox.row_expression(relation, 'old', identity);
    end if;
    if captured.old_values = 'identity' then
        -- Replica identity changes without a trace in the columns: FULL and NOTHING have no
        -- index, so for partitions, whose indexes have names of their own, ask for none of this.
        guards := guards || case
            when described.relkind = 'p' then 'false'
            when pg_catalog.pg_get_replica_identity_index(relation) is null
                then 'pg_catalog.pg_get_replica_identity_index(tg_relid) is null'
            else pg_catalog.format(
                'pg_catalog.pg_get_replica_identity_index(tg_relid) operator(pg_catalog.=) %L::pg_catalog.regclass',
                pg_catalog.pg_get_replica_identity_index(relation)::text) end;
    end if;
    old_statement := case
        when identity = '{}' then 'null;'
        when identity is null then pg_catalog.format('old_row := %s;', old_expression)
        else pg_catalog.format(
            E'if tg_op operator(pg_catalog.=) ''DELETE'' or not pg_catalog.record_image_eq(row(%s), row(%s)) then\n'
            '                    old_row := %s;\n                end if;',
            (select pg_catalog.string_agg(pg_catalog.format('old.%I', name), ', ') from pg_catalog.unnest(identity) name),
            (select pg_catalog.string_agg(pg_catalog.format('new.%I', name), ', ') from pg_catalog.unnest(identity) name),
            old_expression
        ) end;

    return pg_catalog.format(
        $body$
declare
    event_schema pg_catalog.text;
    event_table pg_catalog.text;
    new_row pg_catalog.text;
    old_row pg_catalog.text;
    target_slot pg_catalog.int4;
begin
    begin
        if %1$s then
            event_schema := %2$s;
            event_table := %3$s;
            if tg_op operator(pg_catalog.<>) 'DELETE' then
                new_row := %4$s;
            end if;
            if tg_op operator(pg_catalog.<>) 'INSERT' then
                %5$s
            end if;
        else
            raise exception 'drift';
        end if;
    exception when others then
        select s.schema_name, s.table_name, s.new_row, s.old_row
        into event_schema, event_table, new_row, old_row
        from pgoutbox.capture_slowly(tg_relid, tg_op, new, old) s;
    end;
    target_slot := pgoutbox.slot(pg_catalog.now());
    %6$s
    end if;
    return null;
end
$body$,
        pg_catalog.array_to_string(guards, E'\n            and '),
        schema_expression, table_expression,
        pgoutbox.row_expression(relation, 'new'), old_statement,
        (
            select pg_catalog.string_agg(
                case when slot = 4 then 'else' else pg_catalog.format(
                    '%s target_slot operator(pg_catalog.=) %s then',
                    case when slot = 0 then 'if' else 'elsif' end, slot) end
                || E'\n        ' || pgoutbox.insert_statement(slot), E'\n    ' order by slot)
            from pg_catalog.generate_series(0, 4) slot
        )
    );
end
$$;
