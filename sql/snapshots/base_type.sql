-- What a domain is made of; any other type itself.
create or replace function pgoutbox.base_type(type oid) returns oid
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with recursive step (type, base) as (
        select t.oid, t.typbasetype from pg_type t where t.oid = base_type.type
        union all
        select t.oid, t.typbasetype from step s join pg_type t on t.oid = s.base
    )
    select s.type from step s where s.base = 0
$$;
