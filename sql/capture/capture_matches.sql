-- Capture what matches the patterns that are kept, and isn't captured; for the printed script.
create or replace function pgoutbox.capture_matches() returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform
        pgoutbox.capture_table(m.relation, actions => m.actions, old_values => m.old_values),
        m.fires_always and pgoutbox.fire_always(m.relation, m.fires_always)
    from pgoutbox.pattern_matches() m
    where not m.is_captured and m.may_capture;
end
$$;
