-- Take away what default privileges have given to others on this schema's new objects.
--
-- `known` are the OIDs of those that were there before, whose rights somebody has given on purpose;
-- the schema itself is new where there were none. That others may create objects in it is never
-- right: what they made would run with the owner's rights.
create or replace function pgoutbox.close_to_others(known oid[]) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    open_one record;
begin
    for open_one in
        select distinct o.kind, o.name, a.grantee,
            case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end
                as role,
            case when o.kind = 'schema' and known <> '{}' then 'create' else 'all' end as rights
        from (
            select 'schema' as kind, 'pgoutbox' as name, n.nspacl as acl, n.nspowner as owner,
                null::oid as oid
            from pg_namespace n where n.nspname = 'pgoutbox'
            union all
            select case c.relkind when 'S' then 'sequence' else 'table' end,
                c.oid::regclass::text, c.relacl, c.relowner, c.oid
            from pg_class c
            where c.relnamespace = 'pgoutbox'::regnamespace and c.relkind in ('r', 'v', 'S', 'p')
            union all
            select 'function', p.oid::regprocedure::text,
                coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner, p.oid
            from pg_proc p where p.pronamespace = 'pgoutbox'::regnamespace
            union all
            select 'type', t.oid::regtype::text, t.typacl, t.typowner, t.oid
            from pg_type t join pg_class c on c.oid = t.typrelid and c.relkind = 'c'
            where t.typnamespace = 'pgoutbox'::regnamespace
        ) o
        cross join aclexplode(o.acl) a
        where a.grantee <> o.owner and (o.oid is null or o.oid <> all (known))
          and (o.kind <> 'schema' or a.privilege_type = 'CREATE' or known = '{}')
          -- Everybody may name a type unless that is taken away, and nothing follows from it.
          and (o.kind <> 'type' or a.grantee <> 0)
    loop
        execute format('revoke %s on %s %s from %s cascade',
            open_one.rights, open_one.kind, open_one.name, open_one.role);
    end loop;
end
$$;
