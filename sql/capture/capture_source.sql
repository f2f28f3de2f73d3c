-- The body of a captured table's capture function.
--
-- Generated, so that a row costs one expression with a fixed list of columns. Everything in it is
-- qualified down to the operators, since a SET search_path clause costs up to 14 us a call.
-- Where its guards say that it doesn't fit, or a value's type refuses to make text of it, and for
-- rows with large values, the table's slow function does the rest (slow_source.sql). The block
-- writes nothing, so its subtransaction gets no transaction id.
--
-- The setting pgoutbox.transaction tells how far the transaction is: empty before its first event,
-- then its id, and what capture_unusual.sql lists. PostgreSQL itself takes that back at the end of
-- the transaction and at ROLLBACK TO SAVEPOINT. Whatever else it says is for capture_unusual();
-- also a value that somebody left in the session, which is that of another transaction.
--
-- Each session compiles this anew, which costs by its length, and at the first run what is run is
-- parsed and planned: what one needs of the catalog and others don't costs most. So what is seldom
-- needed is elsewhere, what differs by slot is short, and types are what an operator or a function
-- takes, since PostgreSQL then need not look at the others of that name.
create or replace function pgoutbox.capture_source(relation regclass) returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    ring constant record := pgoutbox.ring();
    may_defer constant boolean := pgoutbox.may_defer(relation);
    choice constant jsonb := pgoutbox.choice_of(relation);
    is_small constant text := pgoutbox.is_small_source(relation, 'new');
    has_condition constant boolean := choice ? 'where';
    -- A change of a row is another one of the chosen rows.
    action constant text := case when has_condition then 'event_action' else 'tg_op' end;
    facts constant text := concat(
        'event_facts := ', pgoutbox.facts_source(relation, action), ';');
    -- The commit stage is to note who the session is, or to run behind all checks.
    mark constant text := coalesce((
        select concat(
            case when i.captures_sessions then ', '' context''' end,
            case when i.awaits_all_checks then ', '' lap''' end)
        from pgoutbox.installation i
    ), '');
begin
    return pgoutbox.filled($body$
declare{declaration}
    new_row pg_catalog.text;
    old_row pg_catalog.text;
    ring_second pg_catalog.int8;
    event_xid pg_catalog.xid8;
    event_seq pg_catalog.int8;
    event_facts pgoutbox.event_facts;
    state pg_catalog.text;
    nothing pg_catalog.text;
begin{alone}{facts}
    begin
        if {guard}
        then{choosing}{naming}
            new_row := case when {has_new} then {new_row} end;
            if {has_old} then
                {old_row}
            end if;
        else
            raise exception 'drift';
        end if;
    exception when others then{facts_again}
        nothing := pgoutbox.capture_slowly_{number}(event_facts, tg_op, new, old);
        return nothing;
    end;
    ring_second := pg_catalog.date_part('epoch'::pg_catalog.text, current_timestamp)
        ::pg_catalog.int8 operator(pg_catalog.%) '{round}'::pg_catalog.int8;
    event_xid := pg_catalog.pg_current_xact_id();
    event_seq := pg_catalog.nextval('pgoutbox.event_seq'::pg_catalog.regclass);
    if (pg_catalog.current_setting('pgoutbox.transaction', true) operator(pg_catalog.=) '')
        is not false
    then
        state := pg_catalog.set_config(
            'pgoutbox.transaction',
            pg_catalog.concat(event_xid, ' ', pg_catalog.pg_trigger_depth(){mark}), true);
        {insert_first}
        return nothing;
    end if;
    if pg_catalog.starts_with(
            pg_catalog.current_setting('pgoutbox.transaction', true),
            pg_catalog.concat(event_xid, ' '))
        and pg_catalog.pg_trigger_depth() operator(pg_catalog.=) 1
    then{mark_lap}
        {insert_further}
    else
        perform pgoutbox.capture_unusual(
            ring_second operator(pg_catalog./) {period}, event_facts, new_row, old_row,
            {may_defer});
    end if;
    return nothing;
end
$body$, jsonb_build_object(
        'number', (
            select c.number from pgoutbox.captured_table c
            where c.relation = capture_source.relation),
        'alone', pgoutbox.alone_source(relation),
        'facts', case when not has_condition then E'\n    ' || facts end,
        -- First the condition, which needs the whole row.
        'guard', pgoutbox.guard_source(
            relation,
            coalesce(case when not has_condition then is_small end, 'true')),
        'declaration', case when has_condition then E'\n    event_action pg_catalog.text;' end,
        'choosing', case when has_condition then concat(
            format(
                E'\n            event_action := pgoutbox.choose_%s(tg_op, new, old);'
                '\n            if event_action is null then return nothing; end if;'
                '\n            %s',
                choice ->> 'number', facts),
            E'\n            if not (' || is_small || ') then raise exception ''large''; end if;'
        ) end,
        'naming', (
            select E'\n            ' || pgoutbox.naming_source(relation) from pg_class c
            where c.oid = relation and c.relkind = 'p'),
        'has_new', case when has_condition
            then 'event_action operator(pg_catalog.<>) ''DELETE''' else 'new.ctid is not null' end,
        'new_row', pgoutbox.bounded_source(relation, pgoutbox.row_source(relation, 'new')),
        'has_old', case when has_condition
            then 'event_action operator(pg_catalog.<>) ''INSERT''' else 'old.ctid is not null' end,
        'old_row', pgoutbox.old_row_source(relation, action),
        'facts_again', case when has_condition then E'\n        ' || facts end,
        'round', ring.period * ring.slots,
        'mark', mark,
        'insert_first', pgoutbox.by_slot(
            'insert into pgoutbox.first_event_%s (xid, seq, facts, new_row, old_row) '
            'values (event_xid, event_seq, event_facts, new_row, old_row);'),
        'insert_further', pgoutbox.by_slot(
            'insert into pgoutbox.event_%s (xid, seq, facts, new_row, old_row) '
            'values (event_xid, event_seq, event_facts, new_row, old_row);'),
        'period', ring.period,
        'may_defer', may_defer,
        -- What the first statement has queued stands before the stage.
        'mark_lap', case when may_defer then $mark$
        if pg_catalog.right(pg_catalog.current_setting('pgoutbox.transaction', true), 4)
            operator(pg_catalog.<>) ' lap'
        then
            state := pg_catalog.set_config(
                'pgoutbox.transaction',
                pg_catalog.concat(
                    pg_catalog.current_setting('pgoutbox.transaction', true), ' lap'),
                true);
        end if;$mark$ end
    ));
end
$$;
