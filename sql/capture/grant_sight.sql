-- Let a role see which tables are captured and how they stand, as every other grant but that of
-- emitting needs it: of no table's rows.
create or replace function pgoutbox.grant_sight(role regrole) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('grant usage on schema pgoutbox to %s', role);
    execute format(
        'grant select on pgoutbox.migration, pgoutbox.installation, pgoutbox.captured_table,
             pgoutbox.captured_pattern, pgoutbox.table_state, pgoutbox.progress to %s', role);
    execute format('grant select on sequence pgoutbox.position_seq to %s', role);
    execute format(
        'grant execute on function
             pgoutbox.positions_behind(), pgoutbox.may_defer(regclass),
             pgoutbox.table_shape(regclass, text), pgoutbox.kept_columns(regclass),
             pgoutbox.identity_columns(regclass),
             pgoutbox.captured_leaves(regclass), pgoutbox.captured_as(regclass),
             pgoutbox.why_not_capture(regclass), pgoutbox.qualified_name(regclass),
             pgoutbox.successor_of(pgoutbox.captured_table), pgoutbox.pattern_matches(regclass)
         to %s', role);
end
$$;
