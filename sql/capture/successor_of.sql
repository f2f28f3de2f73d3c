-- The table that now bears the name under which another one was captured, and isn't captured as
-- that one is; null where there is none.
create or replace function pgoutbox.successor_of(captured pgoutbox.captured_table) returns regclass
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select s.oid::regclass
    from pg_class s join pg_namespace n on n.oid = s.relnamespace
    where n.nspname = captured.schema_name and s.relname = captured.table_name
      and s.oid <> captured.relation
      and pgoutbox.why_not_capture(s.oid) is null
      and not exists (
          select from pgoutbox.captured_table c
          where c.relation = s.oid and c.actions @> captured.actions
            and c.old_values = captured.old_values
      )
$$;
