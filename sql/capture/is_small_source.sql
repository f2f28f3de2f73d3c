-- The condition on which no captured value of the row that `variable` holds ('new', 'old') is
-- large; null for a table whose rows can't have one.
--
-- Large is what takes a mebibyte: nats-server takes no larger message unless it is told to.
create or replace function pgoutbox.is_small_source(relation regclass, variable text) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format(
        'greatest(0, %s) operator(pg_catalog.<) 1048576',
        string_agg(format(c.size, variable), ', ' order by c.name))
    from pgoutbox.sized_columns(relation) c
    where c.size is not null
    having count(*) > 0
$$;
