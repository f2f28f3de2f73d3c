-- Whether a row meets the condition of captured table number `number`; no where that raises.
create or replace function pgoutbox.is_chosen(number integer, changed anyelement) returns boolean
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    is_met boolean;
begin
    execute format('select pgoutbox.choose_%s(''INSERT''::text, $1, $1) is not null', number)
    into is_met using changed;
    return is_met;
exception when others then
    return false;
end
$$;
