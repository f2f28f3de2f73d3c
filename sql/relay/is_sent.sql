-- Whether a relay has sent the event `seq` of the transaction `xid` at `position`.
create or replace function pgoutbox.is_sent(
    progress pgoutbox.progress, "position" bigint, xid xid8, seq bigint
) returns boolean
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select case
        when "position" = progress.partial_position then seq <= progress.partial_seq
        else "position" <= progress.high and not exists (
            select
            from rows from (unnest(progress.gap_first), unnest(progress.gap_last)) g (first, last)
            where "position" between g.first and g.last
              and ("position" > progress.settled or xid = any (progress.holders))
        ) end
$$;
