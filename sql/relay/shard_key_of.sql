-- The columns by which a set of shards divides the rows of a table; empty where it doesn't.
--
-- Decided once, at the first event of the table that a relay of the set sees, and kept on disk
-- before it counts. A table keeps its order of each row only if all events of a row have the
-- key; where a DELETE comes without old values, the whole table is one shard's.
create or replace function pgoutbox.shard_key_of(shards text, schema_name text, table_name text)
    returns text[]
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    found_columns text[];
begin
    select k.columns into found_columns from pgoutbox.shard_key k
    where (k.shards, k.schema_name, k.table_name)
        = (shard_key_of.shards, shard_key_of.schema_name, shard_key_of.table_name);
    if found then
        return found_columns;
    end if;
    perform set_config('synchronous_commit', 'local', true);
    insert into pgoutbox.shard_key (shards, schema_name, table_name, columns)
    values (shards, schema_name, table_name, coalesce((
        select k.columns
        from pgoutbox.table_keys(shard_key_of.schema_name, shard_key_of.table_name) k
        where not exists (
            select from pgoutbox.captured_table c join pg_class r on r.oid = c.relation
            where (c.schema_name, c.table_name)
                    = (shard_key_of.schema_name, shard_key_of.table_name)
              and c.old_values = 'identity' and r.relreplident = 'n'
        )
        order by k.place limit 1
    ), '{}'))
    on conflict on constraint shard_key_pkey do nothing;
    select k.columns into strict found_columns from pgoutbox.shard_key k
    where (k.shards, k.schema_name, k.table_name)
        = (shard_key_of.shards, shard_key_of.schema_name, shard_key_of.table_name);
    return found_columns;
end
$$;
