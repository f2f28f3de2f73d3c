-- Fail unless who calls may use the rights of the table's owner, or of this schema's.
--
-- For functions that run with the rights of this schema's owner: there current_user is that one,
-- and the setting tells as whom the session acts. A function of somebody else that the session
-- calls could act as it anyway.
create or replace function pgoutbox.require_owner(relation regclass) returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    caller constant name := coalesce(nullif(current_setting('role'), 'none'), session_user);
begin
    if not pg_has_role(caller, current_user, 'usage') and not exists (
        select from pg_class c where c.oid = relation and pg_has_role(caller, c.relowner, 'usage')
    ) then
        raise exception 'must be owner of table %', relation using errcode = '42501';
    end if;
end
$$;
