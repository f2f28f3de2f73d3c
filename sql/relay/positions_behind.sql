-- How far the sequence of positions lies behind what relays have sent: 0, unless this database is
-- a copy that left sequences behind, as logical replication does. Then transactions get positions
-- that relays take for sent ones.
create or replace function pgoutbox.positions_behind() returns bigint
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select greatest(0, max(greatest(p.high, p.partial_position))
        - coalesce(pg_sequence_last_value('pgoutbox.position_seq'), 0))
    from pgoutbox.progress p
$$;
