-- Let a role capture and release the tables that it owns, with capture_table() and release_table()
-- or `pgoutbox install --table` and `uninstall --table`. It sees which tables are captured.
create or replace function pgoutbox.grant_capture(role regrole) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgoutbox.grant_sight(role);
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
             pgoutbox.merged_choice(jsonb, jsonb), pgoutbox.relation_named(text),
             pgoutbox.tables_named(text[]), pgoutbox.uncaptured(text[]),
             pgoutbox.require_release(text)
         to %s', role);
end
$$;
