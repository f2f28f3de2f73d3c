-- The body of a captured table's capture function.
--
-- Generated, so that a row costs one expression with a fixed list of columns. Everything in
-- it is qualified down to the operators, since a SET search_path clause costs up to 14 us a
-- call. Three guards lead to capture_slowly():
--   1. pg_describe_object() of the next column number is null until a column is added, and
--      isn't when that one is dropped again and others follow (a look-up in the system cache,
--      no query). PostgreSQL 13 has nothing like it, and asks pg_class for 5 us. A table with
--      generated columns asks for these, too;
--   2. the settings that show in this table's values are as they should be;
--   3. the expressions stand in a block with an exception handler, which catches columns
--      that were dropped, renamed or given a type that cannot be cast. It writes nothing,
--      so its subtransaction gets no transaction id.
-- On partitions the function runs for the leaf, whose column numbers can differ: guard 1
-- then asks for the root.
--
-- The setting pgoutbox.transaction holds the transaction's id once its first event is written;
-- PostgreSQL itself takes that back at the end of the transaction and at ROLLBACK TO
-- SAVEPOINT. A value that somebody left in the session is that of another transaction.
-- pgoutbox.closed is empty until the commit stage has run; then reopen() is needed.
--
-- AFTER triggers fire row by row, each with all that it changes itself, so a row's event can
-- come after what other triggers did for the earlier rows of its statement. The last three
-- columns tell the commit stage (put_in_order()) how it was; the setting pgoutbox.nested tells
-- it to look. The command stands in a row's system columns, unless the row was made and
-- replaced in the same transaction.
create or replace function pgoutbox.capture_source(relation regclass) returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    described pg_catalog.pg_class;
    relation_source text := 'tg_relid';
    guards text[];
    names text;
    ordinary constant text := $insert$insert into pgoutbox.event_%%s
            (xid, seq, opens, schema_name, table_name, action, new_row, old_row, command)
        values (
            pg_catalog.pg_current_xact_id(),
            pg_catalog.nextval('pgoutbox.event_seq'::pg_catalog.regclass),
            %s, %s, tg_op, new_row, old_row, new.cmin
        );$insert$;
begin
    select c.* into strict described from pg_catalog.pg_class c where c.oid = relation;
    if described.relkind = 'p' then
        relation_source := pg_catalog.format('%L::pg_catalog.regclass::pg_catalog.oid', relation::text);
    end if;

    -- Guard 1.
    guards := array[pg_catalog.format(
        case when pg_catalog.current_setting('server_version_num')::integer >= 140000
            then 'pg_catalog.pg_describe_object(''pg_catalog.pg_class''::pg_catalog.regclass, %s, %s) is null'
            else '(select true from pg_catalog.pg_class c where c.oid operator(pg_catalog.=) %s '
                'and c.relnatts operator(pg_catalog.<) %s and not pgoutbox.is_outdated(c.xmax))' end,
        relation_source,
        described.relnatts + 1
    )];

    -- ALTER COLUMN ... DROP EXPRESSION makes a generated column an ordinary one.
    guards := guards || array(
        select pg_catalog.format(
            '(select pg_catalog.count(*) from pg_catalog.pg_attribute a where a.attrelid operator(pg_catalog.=) %s '
            'and a.attgenerated operator(pg_catalog.<>) '''' and not pgoutbox.is_outdated(a.xmax)) '
            'operator(pg_catalog.=) %s',
            relation_source, pg_catalog.count(*))
        from pg_catalog.pg_attribute a
        where a.attrelid = relation and a.attgenerated <> ''
        having pg_catalog.count(*) > 0
    );

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

    names := pg_catalog.format(
        case pg_catalog.getdatabaseencoding()
            when 'SQL_ASCII' then 'pgoutbox.as_utf8(%s), pgoutbox.as_utf8(%s)' else '%s, %s' end,
        case when described.relkind = 'p' then 'event_schema' else 'tg_table_schema' end,
        case when described.relkind = 'p' then 'event_table' else 'tg_table_name' end);

    return pg_catalog.format(
        $body$
declare
    event_schema pg_catalog.text;
    event_table pg_catalog.text;
    new_row pg_catalog.text;
    old_row pg_catalog.text;
    event_slot pg_catalog.int2;
    nothing pg_catalog.text;
begin%5$s
    begin
        if tg_op operator(pg_catalog.=) 'INSERT' and %1$s then
            %2$s
            new_row := %3$s;
        elsif tg_op operator(pg_catalog.=) 'UPDATE' and %1$s then
            %2$s
            new_row := %3$s;
            %4$s
        elsif tg_op operator(pg_catalog.=) 'DELETE' and %1$s then
            %2$s
            %4$s
        else
            raise exception 'drift';
        end if;
    exception when others then
        select s.schema_name, s.table_name, s.new_row, s.old_row
        into event_schema, event_table, new_row, old_row
        from pgoutbox.capture_slowly(tg_relid, tg_op, new, old, %9$L, %10$L) s;
    end;
    -- What an INSERT evaluates is set up anew at each call, also what it then doesn't need. So the
    -- ordinary cases have one of their own with next to nothing in it.
    event_slot := pgoutbox.slot(pg_catalog.now());
    if pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1
        -- Null at a DELETE.
        or (new.xmax operator(pg_catalog.=) '0'::pg_catalog.xid) is not true
        or pg_catalog.current_setting('pgoutbox.closed', true) operator(pg_catalog.<>) ''
    then
        %6$s
    elsif pg_catalog.current_setting('pgoutbox.transaction', true)
        operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text
    then
        %7$s
    else
        %8$s
    end if;
    return nothing;
end
$body$,
        pg_catalog.array_to_string(guards, E'\n            and '),
        -- An ordinary table's events carry its name as it is now.
        case when described.relkind = 'p' then pgoutbox.naming_source(relation) end,
        pgoutbox.row_expression(relation, 'new'),
        pgoutbox.old_row_source(relation),
        pgoutbox.alone_source(relation),
        pgoutbox.by_slot(pg_catalog.format(
            $insert$insert into pgoutbox.event_%%s
            (xid, seq, opens, schema_name, table_name, action, new_row, old_row, command, made, replaced)
        values (
            pg_catalog.pg_current_xact_id(),
            pg_catalog.nextval('pgoutbox.event_seq'::pg_catalog.regclass),
            case when pg_catalog.current_setting('pgoutbox.transaction', true)
                    operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text
                    and (pg_catalog.left(pg_catalog.current_setting('pgoutbox.closed', true), 1)
                        operator(pg_catalog.<>) all ('{"",o}'::pg_catalog.text[])) is not true
                then false
                else pgoutbox.reopen() end,
            %s, tg_op, new_row, old_row,
            case
                when tg_op operator(pg_catalog.<>) 'INSERT'
                    and pg_catalog.age(old.xmin)
                        operator(pg_catalog.>) pg_catalog.age(pg_catalog.xid(pg_catalog.pg_current_xact_id()))
                then old.cmax
                when tg_op operator(pg_catalog.<>) 'DELETE'
                    and new.xmax operator(pg_catalog.=) '0'::pg_catalog.xid
                then new.cmin
            end,
            case when new.xmax operator(pg_catalog.<>) '0'::pg_catalog.xid or pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1
                then pg_catalog.concat(tg_relid, new.ctid) end,
            case when pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1
                then pg_catalog.concat(
                    tg_relid, old.ctid, pg_catalog.left(pg_catalog.set_config('pgoutbox.nested', 'on', true), 0)
                ) end
        );$insert$, names)),
        pgoutbox.by_slot(pg_catalog.format(ordinary, 'false', names)),
        pgoutbox.by_slot(pg_catalog.format(
            ordinary,
            'pg_catalog.set_config(''pgoutbox.transaction'', pg_catalog.pg_current_xact_id()::pg_catalog.text, true) is not null',
            names)),
        (select c.old_values from pgoutbox.captured_table c where c.relation = capture_source.relation),
        pgoutbox.captured_among(relation)
    );
end
$$;
