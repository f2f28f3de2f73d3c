-- Move a relay's progress; the new tid of its row, or null if another leader has taken over.
--
-- `plan` is what the progress will be after each batch that is being published, in their order.
-- Found by its tid first: under a snapshot that is held for a day the index
-- would lead through every earlier version of the row.
create or replace function pgoutbox.advance(
    row_tid tid, relay text, leadership uuid, high bigint, gap_first bigint[], gap_last bigint[],
    partial_position bigint, partial_seq bigint, settled bigint, holders xid8[],
    holder_since bigint[], plan jsonb, last_stored jsonb
) returns tid
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    update pgoutbox.progress p
    set high = advance.high, gap_first = advance.gap_first, gap_last = advance.gap_last,
        partial_position = advance.partial_position, partial_seq = advance.partial_seq,
        settled = advance.settled, holders = advance.holders,
        holder_since = advance.holder_since, plan = advance.plan,
        last_stored = advance.last_stored
    where p.ctid = advance.row_tid and p.relay = advance.relay and p.leadership = advance.leadership
    returning p.ctid into row_tid;
    if not found then
        update pgoutbox.progress p
        set high = advance.high, gap_first = advance.gap_first, gap_last = advance.gap_last,
            partial_position = advance.partial_position, partial_seq = advance.partial_seq,
            settled = advance.settled, holders = advance.holders,
            holder_since = advance.holder_since, plan = advance.plan,
            last_stored = advance.last_stored
        where p.relay = advance.relay and p.leadership = advance.leadership
        returning p.ctid into row_tid;
        if not found then
            return null;
        end if;
    end if;
    return row_tid;
end
$$;
