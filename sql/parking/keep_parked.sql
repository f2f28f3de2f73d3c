-- Copy the events of a slot that are parked by reference, before it is emptied.
--
-- What PostgreSQL itself has corrupted can't be copied; that is added to the reason.
create or replace function pgoutbox.keep_parked(slot integer) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    event record;
begin
    for event in
        select distinct k.position, k.seq
        from pgoutbox.parked k join pgoutbox.transaction t on t.position = k.position
        where t.slot = keep_parked.slot and k.payload is null
    loop
        begin
            insert into pgoutbox.parked_event
            select * from pgoutbox.event_at(event.position, event.seq)
            on conflict do nothing;
        exception when data_corrupted or index_corrupted then
            update pgoutbox.parked k
            set reason = format('%s; lost with its slot: %s', k.reason, sqlerrm)
            where (k.position, k.seq) = (event.position, event.seq) and k.payload is null;
        end;
    end loop;
end
$$;
