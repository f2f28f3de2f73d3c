-- The body of a captured table's capture function.
--
-- Generated, so that a row costs one expression with a fixed list of columns. Everything in it is
-- qualified down to the operators, since a SET search_path clause costs up to 14 us a call.
-- Where its guards say that it doesn't fit, or a value's type refuses to make text of it, the row
-- is rendered by capture_slowly(). So are rows with large values, after what can't be published has
-- been taken out: sizes are known without reading or copying a value. The block writes nothing, so
-- its subtransaction gets no transaction id. A row too large to be handed to a function all the
-- same is captured by its key.
--
-- The setting pgoutbox.transaction tells how far the transaction is: empty before its first event,
-- then its id, and what capture_unusual.sql lists. PostgreSQL itself takes that back at the end of
-- the transaction and at ROLLBACK TO SAVEPOINT. Whatever else it says is for capture_unusual();
-- also a value that somebody left in the session, which is that of another transaction.
--
-- What an INSERT evaluates is set up anew each time, and what an assignment evaluates once a
-- transaction. So the first event, all that most transactions have, is one INSERT as far as that is
-- cheaper, and the further ones insert what was assigned. What a session compiles costs by its
-- length: so what differs by slot is short.
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
    -- It isn't known of a row that is too large for the condition to be evaluated.
    noted_action constant text := case when has_condition
        then 'coalesce(event_action, tg_op)' else 'tg_op' end;
    -- The commit stage is to note who the session is, or to run behind all checks.
    mark constant text := coalesce((
        select concat(
            case when i.captures_sessions then ', '' context''' end,
            case when i.awaits_all_checks then ', '' lap''' end)
        from pgoutbox.installation i
    ), '');
begin
    return pgoutbox.filled($body$
declare
    event_schema pg_catalog.text;
    event_table pg_catalog.text;{declaration}
    new_row pg_catalog.text;
    old_row pg_catalog.text;
    new_large pg_catalog.jsonb;
    old_large pg_catalog.jsonb;
    rendered pg_catalog.record;
    ring_second pg_catalog.int8;
    event_xid pg_catalog.xid8;
    event_seq pg_catalog.int8;
    event_facts pgoutbox.event_facts;
    nothing pg_catalog.text;
begin{alone}
    begin
        if {guard}
        then
            {naming}{choosing}{small}
            if {is_insert} then
                new_row := {new_row};
            elsif {is_update} then
                new_row := {new_row};
                {old_row}
            else
                {old_row}
            end if;
        else
            raise exception 'drift';
        end if;
    exception when others then
        begin{strip}
            rendered := pgoutbox.capture_slowly(
                tg_relid, {noted_action}, new, old, {old_values}, {captured}, {choice},
                new_large, old_large);{slow_action}
            event_schema := rendered.schema_name;
            event_table := rendered.table_name;
            new_row := rendered.new_row;
            old_row := rendered.old_row;{leaving}
            rendered := null;
        exception when program_limit_exceeded or internal_error or out_of_memory then
            select n.schema_name, n.table_name into event_schema, event_table
            from pgoutbox.named_as(tg_relid, {captured}) n;
            new_row := case when new.ctid is not null then {new_key} end;
            old_row := case when old.ctid is not null then {old_key} end;
        end;
    end;
    event_facts := {facts};
    ring_second := pg_catalog.date_part('epoch', current_timestamp)::pg_catalog.int8
        operator(pg_catalog.%) {round};
    if (pg_catalog.current_setting('pgoutbox.transaction', true) operator(pg_catalog.<>) '')
        is not true
    then
        {insert_first}
        return nothing;
    end if;
    event_xid := pg_catalog.pg_current_xact_id();
    if pg_catalog.starts_with(
            pg_catalog.current_setting('pgoutbox.transaction', true),
            pg_catalog.concat(event_xid, ' '))
        and pg_catalog.pg_trigger_depth() operator(pg_catalog.=) 1
    then
        event_seq := pg_catalog.nextval('pgoutbox.event_seq'::pg_catalog.regclass);{mark_lap}
        {insert_further}
    else
        perform pgoutbox.capture_unusual(
            ring_second operator(pg_catalog./) {period}, event_facts, new_row, old_row,
            {may_defer});
    end if;
    return nothing;
end
$body$, jsonb_build_object(
        'alone', pgoutbox.alone_source(relation),
        -- First the condition, which needs the whole row.
        'guard', pgoutbox.guard_source(
            relation,
            coalesce(case when not has_condition then is_small end, 'true')),
        'small', case when has_condition then E'\n            if not ('
            || is_small || ') then raise exception ''large''; end if;' end,
        'strip', pgoutbox.strip_source(relation, has_condition),
        'noted_action', noted_action,
        'naming', (
            select pgoutbox.naming_source(relation) from pg_class c
            where c.oid = relation and c.relkind = 'p'),
        'new_row', pgoutbox.bounded_source(pgoutbox.row_source(relation, 'new')),
        'new_key', pgoutbox.key_row_source(relation, 'new'),
        'old_key', pgoutbox.key_row_source(relation, 'old'),
        'old_row', pgoutbox.old_row_source(relation, action),
        'old_values', (
            select quote_literal(c.old_values)
            from pgoutbox.captured_table c where c.relation = capture_source.relation),
        'captured', quote_literal(pgoutbox.captured_among(relation)),
        'choice', case when has_condition then format(
            'case when event_action is null then %L else %L end::pg_catalog.jsonb',
            choice, choice - 'where') else quote_literal(choice) end,
        'declaration', case when has_condition then E'\n    event_action pg_catalog.text;' end,
        'choosing', case when has_condition then format(
            E'\n            event_action := pgoutbox.choose_%s(tg_op, new, old);'
            '\n            if event_action is null then return nothing; end if;',
            choice ->> 'number') end,
        'is_insert', case when has_condition
            then 'event_action operator(pg_catalog.=) ''INSERT''' else 'old.ctid is null' end,
        'is_update', case when has_condition
            then 'event_action operator(pg_catalog.=) ''UPDATE''' else 'new.ctid is not null' end,
        'slow_action', case when has_condition
            then E'\n            event_action := rendered.action;' end,
        'leaving', case when has_condition
            then E'\n            if event_action is null then return nothing; end if;' end,
        'round', ring.period * ring.slots,
        'facts', pgoutbox.facts_source(relation, noted_action),
        'insert_first', pgoutbox.by_slot(
            $insert$insert into pgoutbox.first_event_%s (xid, seq, facts, new_row, old_row)
        values (
            case when pg_catalog.set_config(
                    'pgoutbox.transaction',
                    pg_catalog.concat(
                        pg_catalog.pg_current_xact_id(), ' ', pg_catalog.pg_trigger_depth()$insert$
                        || mark || $insert$),
                    true
                ) is not null
                then pg_catalog.pg_current_xact_id() end,
            pg_catalog.nextval('pgoutbox.event_seq'::pg_catalog.regclass),
            event_facts, new_row, old_row
        );$insert$),
        'insert_further', pgoutbox.by_slot(
            $insert$insert into pgoutbox.event_%s (xid, seq, facts, new_row, old_row)
        values (event_xid, event_seq, event_facts, new_row, old_row);$insert$),
        'period', ring.period,
        'may_defer', may_defer,
        -- What the first statement has queued stands before the stage.
        'mark_lap', case when may_defer then $mark$
        if pg_catalog.right(pg_catalog.current_setting('pgoutbox.transaction', true), 4)
            operator(pg_catalog.<>) ' lap'
        then
            nothing := pg_catalog.set_config(
                'pgoutbox.transaction',
                pg_catalog.concat(
                    pg_catalog.current_setting('pgoutbox.transaction', true), ' lap'),
                true);
            nothing := null;
        end if;$mark$ end
    ));
end
$$;
