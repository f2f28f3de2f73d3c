-- Remove the copies of events that no relay has parked any more.
create or replace function pgoutbox.tidy_parked() returns void
    language sql
    set search_path = pg_catalog, pg_temp
as $$
    delete from pgoutbox.parked_event e
    where not exists (
        select from pgoutbox.parked k
        where (k.position, k.seq) = (e.position, e.seq) and k.payload is null
    )
$$;
