-- Fail, with a sentence, where a condition isn't one on the columns of a table's row alone, made of
-- immutable built-in functions and operators, as in a publication. Returns the columns that it
-- uses, with their types.
--
-- Capture functions run it with the rights of this schema's owner, and who asks for it may have
-- fewer. So nothing of it is run before it is known what it is made of: making a view parses it
-- only, and tells by its dependencies what isn't built in (but for enums, which are compared by
-- built-in operators). PostgreSQL has the other rules for the predicate of an index: no subquery,
-- no aggregate, nothing that isn't immutable.
--
-- What a literal means follows settings, so wherever it is read it is with those below.
create or replace function pgoutbox.check_condition(relation regclass, condition text) returns jsonb
    language plpgsql
    set search_path = pg_catalog, pg_temp
    set standard_conforming_strings = on
    set transform_null_equals = off
    set timezone = 'UTC'
    set datestyle = 'ISO, MDY'
    set intervalstyle = 'postgres'
as $$
declare
    used text;
    types jsonb;
begin
    if strpos(condition, ';') > 0 then
        raise exception 'the condition can''t have a semicolon: %', condition
            using errcode = 'invalid_parameter_value';
    end if;
    begin
        execute (
            select format('create table pgoutbox.condition_row (%s)',
                string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', '))
            from pg_attribute a
            where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
              and a.attgenerated in ('', 's')
        );
        execute format(
            E'create view pgoutbox.condition_use as select (%s\n) as condition '
            'from only pgoutbox.condition_row', condition);
        select string_agg(pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid), ', ')
        into used
        from pg_depend d join pg_rewrite r on r.oid = d.objid
        where d.classid = 'pg_rewrite'::regclass and d.deptype = 'n'
          and r.ev_class = 'pgoutbox.condition_use'::regclass
          and not (
              d.refclassid = 'pg_class'::regclass
              and d.refobjid in ('pgoutbox.condition_row'::regclass, r.ev_class))
          and not (d.refclassid = 'pg_type'::regclass and exists (
              select from pg_type t where t.oid = d.refobjid and t.typtype = 'e'
          ));
        select coalesce(jsonb_object_agg(a.attname, a.atttypid::regtype), '{}') into types
        from pg_depend d
        join pg_rewrite r on r.oid = d.objid
        join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
        where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass
          and r.ev_class = 'pgoutbox.condition_use'::regclass
          and a.attrelid = 'pgoutbox.condition_row'::regclass and a.attnum > 0;
        drop view pgoutbox.condition_use;
        if used is not null then
            raise exception 'only columns of the row and what is built in can be used, not %', used;
        end if;
        execute format(
            E'create index on pgoutbox.condition_row ((true)) where (%s\n)', condition);
        drop table pgoutbox.condition_row;
    exception when others then
        raise exception 'the condition % can''t be used: %', condition,
            replace(sqlerrm, 'index predicate', 'it')
            using errcode = 'invalid_parameter_value';
    end;
    return types;
end
$$;
