-- An expression of a capture function that renders a row, capped (capped_source.sql) unless the
-- table's rows can't come to that while no value is large (is_small_source.sql).
--
-- A byte becomes six at most as JSON; what a column comes to isn't known of every type.
create or replace function pgoutbox.bounded_source(relation regclass, expression text) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select case when coalesce(bool_and(c.most is not null) and sum(c.most) < 67108864 / 6, true)
        then expression
        else pgoutbox.capped_source(expression) end
    from (
        select octet_length(a.attname) + case
            -- Not looked at (sized_columns.sql), and a limit can be lost without a trace.
            when a.atttypid in ('varchar'::regtype, 'bpchar'::regtype)
                and a.atttypmod between 0 and 1004 then null
            when pgoutbox.is_text_or_bytes(a.atttypid) then 1048576
            when a.atttypid = 'numeric'::regtype then 147460  -- digits
            when a.atttypid in ('inet'::regtype, 'cidr'::regtype) then 50
            -- Of PostgreSQL's own, a regprocedure is the longest: 100 types' names.
            when t.typtype = 'e' or t.typlen > 0 and t.oid < 16384 then 20000
            end as most
        from pg_attribute a
        join pg_type t on t.oid = a.atttypid
        where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    ) c
$$;
