-- What release_table() does inside this schema, with the rights of its owner.
create or replace function pgoutbox.note_release(relation regclass) returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgoutbox.require_owner(relation);
    return pgoutbox.forget_capture(relation);
end
$$;
