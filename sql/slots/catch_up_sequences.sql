-- Bring the sequences past all that the tables know, and give those transactions new positions
-- that were written here, by a sequence that lay behind, and that relays take for sent ones.
--
-- Those written here are the ones whose rows their own transactions made. Commits wait meanwhile.
create or replace function pgoutbox.catch_up_sequences() returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    drawn constant bigint := coalesce(pg_sequence_last_value('pgoutbox.position_seq'), 0);
    moved record;
begin
    lock table pgoutbox.transaction in share row exclusive mode;
    perform setval('pgoutbox.position_seq', greatest(
        drawn,
        (select max(greatest(p.high, p.partial_position)) from pgoutbox.progress p),
        (select max(t.position) from pgoutbox.transaction t)));
    perform setval('pgoutbox.event_seq', greatest(
        pg_sequence_last_value('pgoutbox.event_seq'), 1,
        (select max(t.last_seq) from pgoutbox.transaction t)));
    for moved in
        select t.tableoid::regclass as slot, t.ctid as place
        from pgoutbox.transaction t
        where t.position <= drawn and t.xid::text::bigint % 4294967296 = t.xmin::text::bigint
        order by t.position
    loop
        execute format(
            'update %s set position = nextval(''pgoutbox.position_seq'') where ctid = $1',
            moved.slot
        ) using moved.place;
    end loop;
end
$$;
