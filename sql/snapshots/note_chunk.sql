-- Note how far a relay is with a snapshot, and return the snapshot's state.
--
-- The caller has moved the relay's progress in the same statement, and so made sure that it leads.
create or replace function pgoutbox.note_chunk(
    snapshot uuid, relay text, place jsonb, chunk integer, rows bigint, is_end boolean
) returns text
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
    update pgoutbox.snapshot s
    set place = note_chunk.place, chunk = note_chunk.chunk, rows = note_chunk.rows, error = null,
        state = case
            when is_end then 'done' when s.state = 'waiting' then 'running' else s.state end,
        ended_at = case when is_end then clock_timestamp() end
    where s.id = snapshot and s.relay = note_chunk.relay
      and s.state in ('waiting', 'running', 'paused')
    returning s.state
$$;
