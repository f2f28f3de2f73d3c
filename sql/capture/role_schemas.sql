-- The schemas in which PostgreSQL looks for a name without one, in a session of this role.
create or replace function pgoutbox.role_schemas() returns name[]
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('search_path', s.reset_val, true)
    from pg_settings s where s.name = 'search_path';
    return current_schemas(false);
end
$$;
