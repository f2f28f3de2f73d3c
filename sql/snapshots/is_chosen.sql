-- Whether a row meets a captured table's condition, which was checked for the `types`; no where it
-- raises.
create or replace function pgoutbox.is_chosen(condition text, types jsonb, changed anyelement)
    returns boolean
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    return pgoutbox.choose_slowly(condition, types, 'INSERT', changed, changed) is not null;
exception when others then
    return false;
end
$$;
