-- Ask a relay for a snapshot of all of a captured table; it does so itself for a bucket of its own.
--
-- Returns its id; null where there is no such table, or a snapshot that isn't over is asked for
-- already. The rows that it shows to a relay's role are those of captured tables.
create or replace function pgoutbox.ask_for_rows(relay text, schema_name text, table_name text)
    returns uuid
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    number uuid;
begin
    lock table pgoutbox.snapshot in share row exclusive mode;
    insert into pgoutbox.snapshot (id, relay, relation, table_name)
    select gen_random_uuid(), ask_for_rows.relay, c.relation, pgoutbox.qualified_name(c.relation)
    from pgoutbox.captured_table c
    join pg_class r on r.oid = c.relation
    join pg_namespace n on n.oid = r.relnamespace
    where (n.nspname, r.relname) = (ask_for_rows.schema_name, ask_for_rows.table_name)
      and not exists (
          select from pgoutbox.snapshot s
          where s.relay = ask_for_rows.relay and s.relation = c.relation
            and s.state in ('waiting', 'running', 'paused')
            and s.condition is null and s.rate is null
      )
    returning id into number;
    return number;
end
$$;
