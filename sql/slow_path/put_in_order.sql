-- Order a transaction's events from `first_seq` on as their rows changed.
--
-- Called where a trigger changed captured rows. Events of one command stand together, where
-- its first one was captured: what the triggers of its first rows changed comes after its last
-- row. An event whose command can't be told is of the one whose events stand on both sides of
-- it. Whatever then still stands before the event that made the row version it replaced, since
-- the command of that one can't be told, is held until after it. Only sequence numbers are
-- exchanged, so their range stays.
create or replace function pgoutbox.put_in_order_0(xid xid8, first_seq bigint) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off
    set enable_nestloop = off
as $$
begin
    -- A COMMIT must not take long for this: of a larger transaction, and of rows that were
    -- changed again a thousand times, events stay as they were captured.
    if (
        select count(*) > 100000 from (
            select from (
                table pgoutbox.first_event_0 union all table pgoutbox.event_0
            ) e
            where e.xid = put_in_order_0.xid and e.seq >= put_in_order_0.first_seq
            limit 100001
        ) e
    ) then
        return;
    end if;
    with recursive captured as materialized (
        select
            e.seq,
            concat_ws(' ', f.action, f.schema_name, f.table_name) as kind,
            -- In the row's system columns, unless it was made and replaced in this transaction.
            case
                when f.action in ('UPDATE', 'DELETE')
                    and age(f.old_xmin) > age(pg_catalog.xid(e.xid))
                then f.old_cmax
                when f.action in ('INSERT', 'UPDATE') and f.new_xmax = '0' then f.new_cmin
            end::text as command,
            -- The row version that it made and the one that it replaced, where that may matter.
            case when f.depth > 1 or f.new_xmax <> '0'
                then concat(f.relation, f.new_ctid) end as made,
            case when f.depth > 1
                then concat(f.relation, f.old_ctid) end as replaced
        from (table pgoutbox.first_event_0 union all table pgoutbox.event_0) e
        cross join lateral (select (e.facts).*) f
        where e.xid = put_in_order_0.xid and e.seq >= put_in_order_0.first_seq
    ), counted as (
        select
            c.*,
            count(c.command) over (order by c.seq) as upto,
            count(c.command) over (order by c.seq desc) as on_from,
            count(c.command) over (partition by c.kind order by c.seq) as kind_upto,
            count(c.command) over (
                partition by c.kind order by c.seq desc) as kind_on_from
        from captured c
    ), surrounded as (
        select
            c.*,
            first_value(c.command) over (
                partition by c.upto order by c.seq) as previous,
            first_value(c.command) over (
                partition by c.on_from order by c.seq desc) as following,
            first_value(c.command) over (
                partition by c.kind, c.kind_upto order by c.seq) as kind_previous,
            first_value(c.command) over (
                partition by c.kind, c.kind_on_from order by c.seq desc) as kind_following
        from counted c
    ), grouped as (
        select
            s.seq, s.made, s.replaced,
            min(s.seq) over (partition by coalesce(
                s.command,
                case when s.previous = s.following then s.previous end,
                case when s.kind_previous = s.kind_following then s.kind_previous end,
                'none ' || s.seq)) as group_seq
        from surrounded s
    ), ranked as materialized (
        select g.*, row_number() over (order by g.group_seq, g.seq) as rank
        from grouped g
    ), held (rank, made, until, depth) as (
        select r.rank, r.made, maker.rank, 1
        from ranked r join ranked maker on maker.made = r.replaced and maker.rank > r.rank
        union all
        select r.rank, r.made, h.until, h.depth + 1
        from held h
        join ranked r on r.replaced = h.made and r.rank < h.until and h.depth < 1000
    ), placed as (
        select
            r.seq,
            row_number() over (
                order by coalesce(h.until, r.rank), r.rank <> coalesce(h.until, r.rank), r.rank
            ) as place
        from ranked r
        left join (select h.rank, max(h.until) as until from held h group by h.rank) h
            on h.rank = r.rank
    ), numbered as (
        select c.seq, row_number() over (order by c.seq) as place from captured c
    ), moved as (
        select p.seq, n.seq as new_seq
        from placed p join numbered n on n.place = p.place
        where n.seq <> p.seq
    ), first_moved as (
        update pgoutbox.first_event_0 e set seq = m.new_seq
        from moved m
        where e.xid = put_in_order_0.xid and e.seq = m.seq
    )
    update pgoutbox.event_0 e set seq = m.new_seq
    from moved m
    where e.xid = put_in_order_0.xid and e.seq = m.seq;
end
$$;
