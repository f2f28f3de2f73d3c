-- Write an event of a transaction of which pgoutbox.transaction says something out of the ordinary,
-- or that a trigger of the application made.
--
-- The setting is one of:
--   '<xid> <depth>'          open; a depth above 1 says that a trigger changed captured rows, and
--                            that the commit stage is to put the events in order
--   'done'                   the commit stage has run
--   '<xid> <depth> again'    open again since; the stage will replace the row that it wrote
--   '<xid> <depth> context'  open, and the stage is to note the transaction's context
--   '0 context'              it has a context, but no events yet
--   '... lap'                open, in any of these ways, and checks are queued behind the stage,
--                            which is to run once more, behind them (may_defer.sql)
-- Another transaction's id is as good as nothing.
create or replace function pgoutbox.capture_unusual_0(
    facts pgoutbox.event_facts, new_row text, old_row text, may_defer boolean
) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    xid constant xid8 := pg_current_xact_id();
    state constant text := coalesce(current_setting('pgoutbox.transaction', true), '');
    depth constant integer := case when starts_with(state, concat(xid, ' '))
        then substring(state, '^[0-9]+ ([0-9]{1,9})( again| context)?( lap)?$') end;
    has_context boolean := state like '% context%';
    has_lap boolean := state like '% lap';
begin
    if depth is null then
        select has_context or i.captures_sessions, i.awaits_all_checks into has_context, has_lap
        from pgoutbox.installation i;
    end if;
    perform set_config(
        'pgoutbox.transaction',
        concat(
            xid, ' ', greatest(depth, facts.depth),
            case
                when state = 'done' or depth is not null and state like '% again%'
                then ' again'
                when has_context then ' context' end,
            -- What its first statement has queued stands before the stage.
            case when has_lap or depth is not null and may_defer then ' lap' end
        ),
        true);
    if depth is not null then
        insert into pgoutbox.event_0 (xid, seq, facts, new_row, old_row)
        values (xid, nextval('pgoutbox.event_seq'), facts, new_row, old_row);
    else
        insert into pgoutbox.first_event_0 (xid, seq, facts, new_row, old_row)
        values (xid, nextval('pgoutbox.event_seq'), facts, new_row, old_row);
    end if;
end
$$;

-- The same in a slot that is only known now.

create or replace function pgoutbox.capture_unusual(
    slot bigint, facts pgoutbox.event_facts, new_row text, old_row text,
    may_defer boolean default false
) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    if slot = 0 then perform pgoutbox.capture_unusual_0(facts, new_row, old_row, may_defer);
    elsif slot = 1 then perform pgoutbox.capture_unusual_1(facts, new_row, old_row, may_defer);
    elsif slot = 2 then perform pgoutbox.capture_unusual_2(facts, new_row, old_row, may_defer);
    elsif slot = 3 then perform pgoutbox.capture_unusual_3(facts, new_row, old_row, may_defer);
    else perform pgoutbox.capture_unusual_4(facts, new_row, old_row, may_defer);
    end if;
end
$$;
