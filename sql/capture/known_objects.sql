-- The OIDs of all that this schema has; see close_to_others().
create or replace function pgoutbox.known_objects() returns oid[]
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select array(
        select c.oid from pg_class c where c.relnamespace = 'pgoutbox'::regnamespace
        union all select p.oid from pg_proc p where p.pronamespace = 'pgoutbox'::regnamespace
        union all select t.oid from pg_type t where t.typnamespace = 'pgoutbox'::regnamespace
    )
$$;
