-- The relation that PostgreSQL finds by a name in a session of this role: `users`,
-- `billing.invoices`, `"Odd Name"."T"`; null where there is none, or it is no name.
--
-- A session of pgoutbox has a search_path of its own; the role's is that to reset to.
create or replace function pgoutbox.relation_named(name text) returns oid
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('search_path', s.reset_val, true)
    from pg_settings s where s.name = 'search_path';
    return to_regclass(relation_named.name);
exception
    when invalid_name or syntax_error or feature_not_supported or character_not_in_repertoire
        or invalid_schema_name
    then
        return null;
end
$$;
