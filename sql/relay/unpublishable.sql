-- Raise why an event has no row, so that a relay parks it with that reason.
create or replace function pgoutbox.unpublishable(stored text) returns text
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception '%', substr(stored::json #>> '{}', 2) using errcode = 'data_exception';
end
$$;
