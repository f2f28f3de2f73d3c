-- The columns that a captured table's condition uses, with the types for which it may be evaluated:
-- those that it was checked for (captured_table.condition_types), and what is a built-in one now,
-- since nobody but a superuser makes casts of these.
create or replace function pgoutbox.condition_types(relation regclass) returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(jsonb_object_agg(
        t.name, case when a.atttypid < 16384 then a.atttypid::regtype::text else t.type end
    ), '{}')
    from pgoutbox.captured_table c
    cross join jsonb_each_text(c.condition_types) t (name, type)
    left join pg_attribute a
        on a.attrelid = c.relation and a.attname = t.name and not a.attisdropped
    where c.relation = condition_types.relation
$$;
