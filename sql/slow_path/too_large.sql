-- The columns of a row that can't be published, since no nats-server takes more than 64 MiB: the
-- largest, as many as have to go. What to say of each, by name; `sizes` are in bytes.
create or replace function pgoutbox.too_large(names text[], sizes integer[]) returns jsonb
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(jsonb_object_agg(c.name, format(
        '54000: %s bytes, %s 67108864', c.size,
        case when c.size > 67108864 then 'of at most' else 'in a row of more than' end)), '{}')
    from (
        select u.name, u.size, sum(u.size) over (order by u.size, u.name) as total
        from unnest(names, sizes) u (name, size)
        where u.size is not null
    ) c
    where c.total > 67108864
$$;
