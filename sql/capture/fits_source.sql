-- The condition on which a capture function fits its table, and `condition` (an expression) holds.
--
-- Whether it fits is worked out when the condition is planned (parsed_shape.sql), as a constant.
-- Where it doesn't, `condition` is not evaluated: a column can have got a type of which somebody
-- else has made casts, and they would run with the rights of this schema's owner.
--
-- The table is found by its name, which is what events bear, and the shape has its OID: a copy of
-- the table, such as a restored one, has another. The OID is named in a test that is always true,
-- which the planner doesn't know, since it doesn't know that `nothing` is always null: so the plan
-- keeps it, and every ALTER TABLE ends the plan.
create or replace function pgoutbox.fits_source(relation regclass, condition text) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format(
        E'(case when (case when nothing is not null then %L::pg_catalog.regclass end) is null\n'
        '            then\n'
        '                case when pgoutbox.parsed_shape(%L::pg_catalog.regclass) '
        'operator(pg_catalog.=) %L then\n'
        '                    %s\n'
        '                else false end end)',
        relation::oid, format('%I.%I', n.nspname, c.relname), pgoutbox.parsed_shape(relation),
        condition)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = relation
$$;
