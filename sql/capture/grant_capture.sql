-- Let a role capture and release the tables that it owns, with capture_table() and release_table()
-- or `pgoutbox install --table` and `uninstall --table`. It sees which tables are captured.
create or replace function pgoutbox.grant_capture(role regrole) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('grant usage on schema pgoutbox to %s', role);
    execute format(
        'grant select on pgoutbox.migration, pgoutbox.installation, pgoutbox.captured_table,
             pgoutbox.captured_pattern,
             pgoutbox.table_state to %s', role);
    execute format(
        'grant execute on function
             pgoutbox.capture_table(
                 regclass, text[], text, boolean, text, text[], text[], text[]),
             pgoutbox.note_capture(regclass, text[], text, boolean, jsonb),
             pgoutbox.release_table(regclass), pgoutbox.note_release(regclass),
             pgoutbox.except_table(regclass), pgoutbox.fire_always(regclass, boolean),
             pgoutbox.note_fires_always(regclass, boolean),
             pgoutbox.place_triggers(regclass), pgoutbox.trigger_changes(regclass),
             pgoutbox.capture_truncate(), pgoutbox.captured_root(regclass),
             pgoutbox.capture_wanted(regclass, text[], text, boolean, jsonb),
             pgoutbox.asked_choice(text, text[], text[], text[]),
             pgoutbox.merged_choice(jsonb, jsonb),
             pgoutbox.why_not_capture(regclass), pgoutbox.qualified_name(regclass),
             pgoutbox.successor_of(pgoutbox.captured_table), pgoutbox.relation_named(text),
             pgoutbox.tables_named(text[]), pgoutbox.pattern_matches(regclass),
             pgoutbox.uncaptured(text[]), pgoutbox.may_defer(regclass),
             pgoutbox.table_shape(regclass, text), pgoutbox.kept_columns(regclass),
             pgoutbox.identity_columns(regclass),
             pgoutbox.captured_leaves(regclass), pgoutbox.captured_as(regclass),
             pgoutbox.require_release(text), pgoutbox.positions_behind()
         to %s', role);
    execute format('grant select on pgoutbox.progress to %s', role);
    execute format('grant select on sequence pgoutbox.position_seq to %s', role);
end
$$;
