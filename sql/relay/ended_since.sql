-- From which position on the gaps of a progress are worth a look: the lowest `since` of the holders
-- that have ended; null where none has, so that nobody can have filled a gap.
create or replace function pgoutbox.ended_since(holders xid8[], since bigint[]) returns bigint
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select min(h.since)
    from unnest(holders, since) h (xid, since)
    where pg_visible_in_snapshot(h.xid, pg_current_snapshot())
$$;
