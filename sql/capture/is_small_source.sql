-- The condition on which no captured value of the row that `variable` holds ('new', 'old') is
-- large; null for a table whose rows can't have one.
--
-- Large is what takes a mebibyte: nats-server takes no larger message unless it is told to. A null
-- is not large. greatest() would take one function more, and what knows how to sort integers.
create or replace function pgoutbox.is_small_source(relation regclass, variable text) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format(
        '(1048576 operator(pg_catalog.>) all (array[%s])) is not false',
        string_agg(format(c.size, variable), ', ' order by c.name))
    from pgoutbox.sized_columns(relation) c
    where c.size is not null
    having count(*) > 0
$$;
