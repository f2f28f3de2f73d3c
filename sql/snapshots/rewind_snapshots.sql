-- Have a relay's snapshots go back to a mark, behind which its stream has lost messages.
--
-- The one whose place the mark has goes on from there; others that weren't over by then begin
-- again. A mark is made a little after the progress that it is of, so some seconds count as well.
create or replace function pgoutbox.rewind_snapshots(
    relay text, sequence bigint, snapshot uuid, place jsonb, chunk integer, rows bigint
) returns void
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
    update pgoutbox.snapshot s
    set place = case when s.id = snapshot then rewind_snapshots.place end,
        chunk = case when s.id = snapshot then rewind_snapshots.chunk else 0 end,
        rows = case when s.id = snapshot then rewind_snapshots.rows else 0 end,
        state = case when s.state = 'done' then 'running' else s.state end,
        ended_at = null
    where s.relay = rewind_snapshots.relay and s.place is not null
      and s.state in ('running', 'paused', 'done')
      and (s.ended_at < (
          select m.made_at - interval '10 seconds' from pgoutbox.mark m
          where m.relay = rewind_snapshots.relay and m.sequence = rewind_snapshots.sequence
      )) is not true
$$;
