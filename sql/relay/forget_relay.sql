-- Remove what is known of a relay that no longer runs, so that nothing is kept for it: how many
-- events it had parked; null where nothing was known of it. Nobody takes the lead meanwhile.
create or replace function pgoutbox.forget_relay(relay text) returns bigint
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    progress pgoutbox.progress;
    parked bigint;
begin
    select p.* into progress from pgoutbox.progress p
    where p.relay = forget_relay.relay for update;
    if pgoutbox.is_led(progress) then
        raise object_in_use
            using message = format('relay %s is running', relay), hint = 'Stop it first.';
    end if;
    delete from pgoutbox.parked k where k.relay = forget_relay.relay;
    get diagnostics parked = row_count;
    perform pgoutbox.tidy_parked();
    delete from pgoutbox.progress p where p.relay = forget_relay.relay;
    delete from pgoutbox.relay_error e where e.relay = forget_relay.relay;
    delete from pgoutbox.relay_polling p where p.relay = forget_relay.relay;
    delete from pgoutbox.relay_pause p where p.relay = forget_relay.relay;
    delete from pgoutbox.resend r where r.relay = forget_relay.relay;
    delete from pgoutbox.mark m where m.relay = forget_relay.relay;
    delete from pgoutbox.loss l where l.relay = forget_relay.relay;
    delete from pgoutbox.snapshot s where s.relay = forget_relay.relay;
    delete from pgoutbox.largest_message m where m.relay = forget_relay.relay;
    -- Of sets of shards of which no relay is left.
    delete from pgoutbox.shard_key k where not exists (
        select from pgoutbox.progress p
        where regexp_replace(p.relay, '-[0-9]+(-of-[0-9]+)$', E'\\1') = k.shards
    );
    return case when progress.relay is not null or parked > 0 then parked end;
end
$$;
