-- Capture a table that isn't captured and bears the name of a captured one, or matches a pattern
-- and is one that the owner of this schema may capture.
create or replace function pgoutbox.capture_if_wanted(relation regclass) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgoutbox.capture_table(s.relation)
    from pgoutbox.captured_table c cross join pgoutbox.successor_of(c) s (relation)
    where s.relation = capture_if_wanted.relation;
    if not found then
        perform pgoutbox.capture_matches(relation);
    end if;
end
$$;
