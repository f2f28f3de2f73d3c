-- Become the leader of a relay: draw a number, and return its progress.
--
-- The caller holds the relay's leader lock. Every later write to the progress names the
-- number, so a relay that was frozen and has lost the lead changes nothing.
create or replace function pgoutbox.lead(relay text) returns setof pgoutbox.progress
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
    insert into pgoutbox.progress as p (relay, leadership)
    values (lead.relay, pg_catalog.nextval('pgoutbox.leadership_seq'))
    on conflict on constraint progress_pkey do update
    set leadership = excluded.leadership, method = null, started_at = pg_catalog.clock_timestamp()
    returning p.*
$$;
