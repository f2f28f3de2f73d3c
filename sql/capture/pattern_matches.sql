-- The tables that match the patterns that are kept, each with one of the patterns that it matches;
-- or one table, if it does.
--
-- Left out are tables that belong to extensions, and partitions whose events go under the name of
-- a table above them, or would if that weren't left out. `may_capture` where the owner of this
-- schema, or who asks, has the rights of the table's owner; `is_new_schema` where the schema wasn't
-- there when the pattern was given.
create or replace function pgoutbox.pattern_matches(only_one regclass default null)
    returns table (
        relation regclass, pattern text, actions text[], old_values text, fires_always boolean,
        is_captured boolean, may_capture boolean, is_new_schema boolean
    )
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select distinct on (c.oid)
        c.oid::regclass, p.pattern, p.actions, p.old_values, p.fires_always,
        exists (select from pgoutbox.captured_table t where t.relation = c.oid),
        pg_has_role(own.nspowner, c.relowner, 'usage')
            or pg_has_role(session_user, c.relowner, 'member'),
        n.nspname <> all (p.schemas)
    from pgoutbox.captured_pattern p
    join pg_namespace n on n.nspname like (p.wanted).schema_like
    join pg_class c on c.relnamespace = n.oid and c.relname like (p.wanted).table_like
    join pg_namespace own on own.nspname = 'pgoutbox'
    where (only_one is null or c.oid = only_one)
      and c.relkind in ('r', 'p') and pgoutbox.why_not_capture(c.oid) is null
      and n.nspname !~ '^pg_'
      and not exists (
          select from unnest(p.excepted) e
          where n.nspname like e.schema_like and c.relname like e.table_like
      )
      and not exists (
          select from pg_depend d
          where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
      )
      and not exists (
          select from pg_partition_ancestors(c.oid) a (relid)
          join pg_class ac on ac.oid = a.relid
          join pg_namespace an on an.oid = ac.relnamespace
          where c.relispartition and ac.oid <> c.oid and (
              an.nspname like (p.wanted).schema_like and ac.relname like (p.wanted).table_like
              or exists (select from pgoutbox.captured_table t where t.relation = ac.oid))
      )
    order by c.oid, p.pattern
$$;
