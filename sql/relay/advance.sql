-- Move a relay's progress, if its row is the one that this relay has written last: see
-- require_progress(). The row's new place and who wrote it, or nulls if it is another one.
--
-- `plan` is what the progress will be after each batch that is being published, in their order.
-- With `flush` all that was committed before is on PostgreSQL's disk afterwards. The row is found
-- by its place: under a snapshot that is held for a day the index would lead through every earlier
-- version of it.
create or replace function pgoutbox.advance(
    outbox oid, inout row_tid tid, inout row_xmin xid,
    high bigint, gap_first bigint[], gap_last bigint[],
    partial_position bigint, partial_seq bigint, settled bigint, holders xid8[],
    holder_since bigint[], plan jsonb, last_stored jsonb, flush boolean
)
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('synchronous_commit', case when flush then 'local' else 'off' end, true);
    update pgoutbox.progress p
    set high = advance.high, gap_first = advance.gap_first, gap_last = advance.gap_last,
        partial_position = advance.partial_position, partial_seq = advance.partial_seq,
        settled = advance.settled, holders = advance.holders,
        holder_since = advance.holder_since, plan = advance.plan,
        last_stored = advance.last_stored
    where p.ctid = advance.row_tid and p.xmin = advance.row_xmin and p.tableoid = advance.outbox
    returning p.ctid, p.xmin into row_tid, row_xmin;
end
$$;
