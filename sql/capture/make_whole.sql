-- Give a copy of the schema what its copying left out; true where something was missing.
--
-- `migrations` are those that the schema has, as rows of pgoutbox.migration. A copy of the
-- structure alone (a dump with --schema-only) has no rows, though triggers that capture. A copy by
-- logical replication has no values of sequences.
create or replace function pgoutbox.make_whole(migrations jsonb) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    is_hollow boolean;
    is_behind constant boolean := pgoutbox.positions_behind() > 0;
begin
    insert into pgoutbox.installation default values on conflict do nothing;
    is_hollow := found;
    if is_hollow then
        insert into pgoutbox.migration (number, name, breaking)
        select m.number, m.name, m.breaking
        from jsonb_to_recordset(migrations) m (number integer, name text, breaking text);
        perform pgoutbox.recover_captured_tables();
    end if;
    if is_behind then
        perform pgoutbox.catch_up_sequences();
    end if;
    return is_hollow or is_behind;
end
$$;
