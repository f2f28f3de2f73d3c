-- Whether a type is text or bytea, or a domain over one: PostgreSQL knows the length of its values
-- without reading them. By the type, since octet_length() takes others by casts that users define.
create or replace function pgoutbox.is_text_or_bytes(type oid) returns boolean
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select pgoutbox.base_type(type) in (
        'text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'bytea'::regtype)
$$;
