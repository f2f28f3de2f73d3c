-- The body of a captured table's capture function.
--
-- Generated, so that a row costs one expression with a fixed list of columns. Everything in it is
-- qualified down to the operators, since a SET search_path clause costs up to 14 us a call.
-- Where its guards say that it doesn't fit, or a value's type refuses to make text of it, the row
-- is rendered by capture_slowly(). The block writes nothing, so its subtransaction gets no
-- transaction id.
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
--
-- What an INSERT evaluates is set up anew at each call, also what it then doesn't need. So the
-- ordinary cases have one of their own with next to nothing in it.
create or replace function pgoutbox.capture_source(relation regclass) returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    is_partitioned constant boolean := (
        select c.relkind = 'p' from pg_class c where c.oid = relation);
    names constant text := pg_catalog.format(
        case getdatabaseencoding() when 'SQL_ASCII'
            then 'pgoutbox.as_utf8(%s), pgoutbox.as_utf8(%s)' else '%s, %s' end,
        case when is_partitioned then 'event_schema' else 'tg_table_schema' end,
        case when is_partitioned then 'event_table' else 'tg_table_name' end);
    ordinary constant text := $insert$insert into pgoutbox.event_%s
            (xid, seq, opens, schema_name, table_name, action, new_row, old_row, command)
        values (
            pg_catalog.pg_current_xact_id(),
            pg_catalog.nextval('pgoutbox.event_seq'::pg_catalog.regclass),
            {opens}, {names}, tg_op, new_row, old_row, new.cmin
        );$insert$;
begin
    return pgoutbox.filled($body$
declare
    event_schema pg_catalog.text;
    event_table pg_catalog.text;
    new_row pg_catalog.text;
    old_row pg_catalog.text;
    event_slot pg_catalog.int2;
    nothing pg_catalog.text;
begin{alone}
    begin
        if {guard}
        then
            {naming}
            if tg_op operator(pg_catalog.<>) 'DELETE' then
                new_row := {new_row};
            end if;
            if tg_op operator(pg_catalog.<>) 'INSERT' then
                {old_row}
            end if;
        else
            raise exception 'drift';
        end if;
    exception when others then
        select s.schema_name, s.table_name, s.new_row, s.old_row
        into event_schema, event_table, new_row, old_row
        from pgoutbox.capture_slowly(
            tg_relid, tg_op, new, old, {old_values}, {captured}) s;
    end;
    event_slot := pgoutbox.slot(pg_catalog.now());
    if pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1
        -- Null at a DELETE.
        or (new.xmax operator(pg_catalog.=) '0'::pg_catalog.xid) is not true
        or pg_catalog.current_setting('pgoutbox.closed', true) operator(pg_catalog.<>) ''
    then
        {insert_unusual}
    elsif pg_catalog.current_setting('pgoutbox.transaction', true)
        operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text
    then
        {insert_further}
    else
        {insert_first}
    end if;
    return nothing;
end
$body$, jsonb_build_object(
        'alone', pgoutbox.alone_source(relation),
        'guard', pgoutbox.guard_source(relation),
        -- An ordinary table's events carry its name as it is now.
        'naming', case when is_partitioned then pgoutbox.naming_source(relation) end,
        'new_row', pgoutbox.row_source(relation, 'new'),
        'old_row', pgoutbox.old_row_source(relation),
        'old_values', (
            select quote_literal(c.old_values)
            from pgoutbox.captured_table c where c.relation = capture_source.relation),
        'captured', quote_literal(pgoutbox.captured_among(relation)),
        'insert_further', pgoutbox.by_slot(pgoutbox.filled(
            ordinary, jsonb_build_object('names', names, 'opens', 'false'))),
        'insert_first', pgoutbox.by_slot(pgoutbox.filled(
            ordinary, jsonb_build_object('names', names, 'opens',
                'pg_catalog.set_config(''pgoutbox.transaction'','
                ' pg_catalog.pg_current_xact_id()::pg_catalog.text, true) is not null'))),
        'insert_unusual', pgoutbox.by_slot(pgoutbox.filled($insert$insert into pgoutbox.event_%s
            (xid, seq, opens, schema_name, table_name, action, new_row, old_row, command,
             made, replaced)
        values (
            pg_catalog.pg_current_xact_id(),
            pg_catalog.nextval('pgoutbox.event_seq'::pg_catalog.regclass),
            case when pg_catalog.current_setting('pgoutbox.transaction', true)
                    operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text
                    and (pg_catalog.left(pg_catalog.current_setting('pgoutbox.closed', true), 1)
                        operator(pg_catalog.<>) all (array['', 'o'])) is not true
                then false
                else pgoutbox.reopen() end,
            {names}, tg_op, new_row, old_row,
            case
                when tg_op operator(pg_catalog.<>) 'INSERT'
                    and pg_catalog.age(old.xmin) operator(pg_catalog.>) pg_catalog.age(
                        pg_catalog.xid(pg_catalog.pg_current_xact_id()))
                then old.cmax
                when tg_op operator(pg_catalog.<>) 'DELETE'
                    and new.xmax operator(pg_catalog.=) '0'::pg_catalog.xid
                then new.cmin
            end,
            case when new.xmax operator(pg_catalog.<>) '0'::pg_catalog.xid
                    or pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1
                then pg_catalog.concat(tg_relid, new.ctid) end,
            case when pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1
                then pg_catalog.concat(
                    tg_relid, old.ctid,
                    pg_catalog.left(pg_catalog.set_config('pgoutbox.nested', 'on', true), 0)
                ) end
        );$insert$, jsonb_build_object('names', names)))
    ));
end
$$;
