-- Give the roles that have been granted something what that takes in this release.
--
-- Each is known by a right that only its grant gives.
create or replace function pgoutbox.renew_grants() returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    granted record;
begin
    for granted in
        select 'grant_relay' as name, a.grantee
        from pg_class c, aclexplode(c.relacl) a
        where c.oid = 'pgoutbox.progress'::regclass and a.privilege_type = 'UPDATE'
          and a.grantee not in (0, c.relowner)
        union
        select 'grant_reader', a.grantee
        from pg_attribute c, aclexplode(c.attacl) a
        where c.attrelid = 'pgoutbox.parked'::regclass and c.attname = 'relay' and a.grantee <> 0
        union
        select case p.proname when 'emit' then 'grant_emit' else 'grant_capture' end, a.grantee
        from pg_proc p, aclexplode(p.proacl) a
        where p.pronamespace = 'pgoutbox'::regnamespace and p.proname in ('emit', 'note_capture')
          and a.grantee not in (0, p.proowner)
    loop
        execute format('select pgoutbox.%s(%s)', granted.name, granted.grantee);
    end loop;
end
$$;
