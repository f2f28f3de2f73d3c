-- Read the next rows of a snapshot for a relay, behind `place`, which an earlier call returned.
--
-- Called under REPEATABLE READ, in the snapshot in which the relay has read all that is unsent:
-- then each row is what the events before it make of it, and all that changes it later comes as an
-- event behind it. Returns the rows that the snapshot is to send, each with what tells it apart
-- (`own`) and, `with_keys`, the values of its table's key as its JSON has them (`key`); then one
-- row with the place behind them and the time. With `columns`, which are shard_key_of()'s, only
-- those of one shard.
--
-- A place: `part`, the table that is being read; `order`, what the values of `last` belong to;
-- `last`, the key of the row that was looked at last; `upto`, that of the last row when the part
-- was begun, since what is inserted behind it comes as events; `done`, the parts that are read;
-- `gone`, those of them that have been detached; `round`, how often something was begun again;
-- `is_end`. A table without a key has for its values where a row stands, and its file to tell rows
-- apart: what stands there in another file is another row. A call looks at some pages of such a
-- table, since there may be many without a row.
--
-- Runs with the rights of who installed pgoutbox, as capture does, and reads what was asked for
-- (pgoutbox.snapshot), whatever its arguments say. The condition is that of somebody who may write
-- there: the same role. Where a policy would hide rows it fails instead (row_security). It waits
-- for locks as long as events may wait for it. The planner has one way: the key's index, or places.
create or replace function pgoutbox.read_chunk(
    snapshot uuid, relay text, place jsonb, max_rows integer, max_bytes bigint, slowly boolean,
    with_keys boolean, columns text[], shard integer, shards integer
) returns table (own text[], key text[], data bytea, next_place jsonb, read_at timestamptz)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set row_security = off
    set standard_conforming_strings = on
    set transform_null_equals = off
    set lock_timeout = '50ms'
    set datestyle = 'ISO, MDY'
    set intervalstyle = 'postgres'
    set timezone = 'UTC'
    set extra_float_digits = 1
    set bytea_output = 'hex'
    set lc_monetary from current
    set enable_indexscan = on
    set enable_tidscan = on
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_sort = off
    set enable_incremental_sort = off
    set max_parallel_workers_per_gather = 0
    set jit = off
as $$
declare
    pages constant integer := 64;
    asked pgoutbox.snapshot;
    part regclass;
    last text[];
    upto text[];
    reach text[];  -- up to which is read, of a table without a key
    done oid[];
    gone oid[];
    ordering record;
    prefix text[];  -- of what tells rows apart
    names text[];
    key_columns text[];
    wanted refcursor;
    found_row record;
    looked integer := 0;
    bytes bigint := 0;
    is_over boolean := false;
begin
    select s.* into strict asked from pgoutbox.snapshot s
    where s.id = snapshot and s.relay = read_chunk.relay and s.state in ('waiting', 'running');
    if not exists (
        select from pgoutbox.captured_table c join pg_class r on r.oid = c.relation
        where c.relation = asked.relation
    ) then
        raise exception 'the table % is gone, or is no longer captured', asked.table_name
            using errcode = 'undefined_table';
    end if;
    place := coalesce(place, '{"round": 0, "done": [], "gone": []}');
    done := array(select jsonb_array_elements_text(place -> 'done')::oid);
    gone := array(select jsonb_array_elements_text(place -> 'gone')::oid) || array(
        select c.oid from pg_class c
        where c.oid = any (done) and c.oid <> asked.relation and not c.relispartition
    );
    done := array(select d from unnest(done) d where d <> all (gone));
    part := (place ->> 'part')::oid;
    if part is null or asked.relation::oid <> all (array[part::oid] || array(
        select a.relid::oid from pg_partition_ancestors(part) a
    )) then
        part := pgoutbox.snapshot_part(asked.relation, done);
        place := place - '{part,order,last,upto}'::text[];
        if part = any (gone) then  -- attached again
            gone := array_remove(gone, part::oid);
            place := jsonb_set(place, '{round}', to_jsonb((place ->> 'round')::integer + 1));
        end if;
    end if;
    if part is not null then
        select o.* into ordering from pgoutbox.snapshot_order(part) o;
        if ordering.file is not null and not asked.allows_no_key then
            raise exception 'the table % has no key', part using errcode = 'P0K01';
        end if;
        prefix := array_remove(array[part::oid::text, ordering.file::text], null);
        if place ->> 'order' <> ordering.described then
            place := jsonb_set(
                place - '{last,upto}'::text[],
                '{round}', to_jsonb((place ->> 'round')::integer + 1));
        end if;
        if place -> 'upto' is not null then
            last := array(select jsonb_array_elements_text(place -> 'last'));
            upto := array(select jsonb_array_elements_text(place -> 'upto'));
        elsif ordering.file is not null then
            last := array['(0,0)'];
            upto := array[format(
                '(%s,0)', pg_relation_size(part) / current_setting('block_size')::integer)];
        else
            execute format(
                'select array[%s]::text[] from only %s order by %s limit 1',
                (select string_agg(format('concat(%I)', c.name), ', ')
                    from unnest(ordering.columns) c (name)),
                part,
                (select string_agg(format('%I desc', c.name), ', ')
                    from unnest(ordering.columns) c (name))
            ) into upto;
        end if;
        is_over := upto is null;
    end if;
    if part is not null and not is_over then
        if ordering.file is not null then
            reach := array[format('(%s,0)', least(
                (last[1]::point)[0] + pages, (upto[1]::point)[0]))];
        end if;
        open wanted for execute pgoutbox.chunk_source(
            asked.relation, part, nullif(last, '{}'), coalesce(reach, upto), asked.condition,
            max_rows, slowly);
        select array[n.nspname, c.relname] into names
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.oid = asked.relation;
        if with_keys then
            key_columns := (
                select k.columns from pgoutbox.table_keys(names[1], names[2]) k
                order by k.place limit 1);
        end if;
        loop
            fetch wanted into found_row;
            if reach is not null and not found then
                last := reach;
                is_over := reach = upto;
                exit;
            end if;
            is_over := not found or found_row.is_beyond;
            exit when is_over;
            assert reach is null or found_row.own[1]::tid > last[1]::tid, 'rows in order';
            looked := looked + 1;
            last := found_row.own;
            if found_row.data is not null and (
                columns is null
                or pgoutbox.shard_of(names, columns, found_row.data::json, shards) = shard
            ) then
                own := prefix || found_row.own;
                if key_columns is not null then
                    key := pgoutbox.values_of(found_row.data::json, key_columns);
                end if;
                data := convert_to(found_row.data, 'UTF8');
                bytes := bytes + octet_length(data);
                return next;
            end if;
            is_over := last = upto;
            exit when is_over or looked = max_rows or bytes >= max_bytes;
        end loop;
        close wanted;
    end if;
    if part is not null then
        -- Under a lock now. Rewritten since the snapshot, it would look empty; and a column's name
        -- could mean another one.
        if exists (
            select from pg_class c where c.oid = part and pgoutbox.is_outdated(c.xmax)
            union all
            select from pg_attribute a where a.attrelid = part and pgoutbox.is_outdated(a.xmax)
        ) then
            raise exception 'the table % has changed', part using errcode = 'P0K02';
        end if;
        place := place || jsonb_build_object(
            'part', part::oid::bigint, 'order', ordering.described,
            'last', coalesce(last, '{}'), 'upto', coalesce(upto, '{}'));
    end if;
    if part is null or is_over then
        done := done || part::oid;
        place := place - '{part,order,last,upto}'::text[] || jsonb_build_object(
            'is_end', pgoutbox.snapshot_part(asked.relation, done) is null);
    end if;
    place := place
        || jsonb_build_object('done', to_jsonb(done::bigint[]), 'gone', to_jsonb(gone::bigint[]));
    own := null;
    key := null;
    data := null;
    next_place := place;
    read_at := now();
    return next;
end
$$;
