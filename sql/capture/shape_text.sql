-- What a capture function is made for, in 32 characters.
create or replace function pgoutbox.shape_text(relation oid, names text[], types oid[])
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select md5(concat_ws(' ', n.object_names, names, types))
    from pg_identify_object_as_address('pg_class'::regclass, relation, 0) n
$$;
