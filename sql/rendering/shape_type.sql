-- The type that renders a captured table's rows: its name, and its attributes as CREATE TYPE has
-- them; no row for a table that none can be made for.
--
-- The name follows from the attributes, since such a type is never changed: a writer may be using
-- it. It goes when the table is released, under a lock that keeps all writers out.
create or replace function pgoutbox.shape_type(relation regclass)
    returns table (name text, attributes text)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with shape as (
        select
            string_agg(quote_ident(c.attribute) || ' ' || c.type, ', ' order by c.place)
                -- After the last column, too, a Z may be due.
                || case when max(c.place) filter (where c.type = 'timestamp') = max(c.place)
                    then E', "\x02" text' else '' end as attributes,
            max(octet_length(c.attribute)) <= 63 and count(*) < 1600 as is_possible
        from pgoutbox.shape_columns(relation) c
    )
    select
        format('pgoutbox.shape_%s_%s', c.number, left(md5(s.attributes), 8)),
        s.attributes
    from shape s join pgoutbox.captured_table c on c.relation = shape_type.relation
    where s.is_possible
$$;
