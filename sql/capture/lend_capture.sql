-- Let a captured table's owner, and nobody else, make triggers that call its capture function.
--
-- PostgreSQL asks for that right also where the owner makes a partition, which gets a clone of the
-- trigger. Who had it for another table could forge that table's events.
create or replace function pgoutbox.lend_capture(captured pgoutbox.captured_table) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    capture constant regprocedure := format('pgoutbox.capture_%s()', captured.number);
    own constant oid := (select p.proowner from pg_proc p where p.oid = capture);
    owner constant oid := (select c.relowner from pg_class c where c.oid = captured.relation);
    former oid;
begin
    for former in
        select a.grantee from pg_proc p, aclexplode(p.proacl) a
        where p.oid = capture and a.grantee not in (own, owner)
    loop
        execute format('revoke all on function %s from %s', capture, former::regrole);
    end loop;
    if owner <> own then
        execute format(
            'grant execute on function %s, pgoutbox.capture_truncate() to %s',
            capture, owner::regrole);
    end if;
end
$$;
