-- Whether reading a value of a type from text can run the checks of a domain, or might: composite
-- types count as such. `type` is no domain itself.
create or replace function pgoutbox.has_domain_inside(type oid) returns boolean
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select t.typtype not in ('b', 'e', 'r')
        or exists (
            select from pg_type e
            where e.oid = t.typelem and t.typlen = -1 and e.typtype not in ('b', 'e')
        )
        or exists (
            select from pg_range r join pg_type s on s.oid = r.rngsubtype
            where r.rngtypid = t.oid and s.typtype <> 'b'
        )
    from pg_type t
    where t.oid = has_domain_inside.type
$$;
