-- Capture what matches the patterns that are kept, and isn't captured: of all tables, for the
-- printed script, or one that was just made, if this role has its owner's rights.
create or replace function pgoutbox.capture_matches(made regclass default null) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform
        pgoutbox.capture_table(m.relation, actions => m.actions, old_values => m.old_values),
        m.fires_always and pgoutbox.fire_always(m.relation, m.fires_always)
    from pgoutbox.pattern_matches(made) m
    join pg_class c on c.oid = m.relation
    where not m.is_captured and m.may_capture
      and (made is null or pg_has_role(c.relowner, 'usage'));
end
$$;
