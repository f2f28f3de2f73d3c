-- Whether what transaction `xmax` did to a row that this transaction sees has come since its
-- snapshot; see is_outdated().
--
-- Under READ COMMITTED each question has a snapshot of its own, and the writer's lock on its table
-- keeps the answer true. An ALTER TABLE that was rolled back leaves its id, too; whoever the
-- snapshot shows as ended, and left the row there, has only locked it.
create or replace function pgoutbox.is_replaced(xmax xid) returns boolean
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    current_xid constant xid8 := pg_current_xact_id();
    replacing_xid xid8;
begin
    if current_setting('transaction_isolation') like 'read %' then
        return false;
    end if;
    replacing_xid := (
        current_xid::text::bigint - (age(xmax) - age(current_xid::xid))
    )::text::xid8;
    return not pg_visible_in_snapshot(replacing_xid, pg_current_snapshot())
        and pg_xact_status(replacing_xid) is not distinct from 'committed';
exception when others then
    return true;  -- no transaction's id, but that of several that have locked the row
end
$$;
