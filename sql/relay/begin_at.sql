-- Let a relay that has no progress yet begin at a position; true where it had none.
--
-- With `begin_position` null it begins now: with what isn't committed yet. Of the positions up to
-- the last one drawn, those that this statement doesn't see are gaps, for their transactions may
-- still be under way.
create or replace function pgoutbox.begin_at(relay text, begin_position bigint) returns boolean
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
    with drawn as materialized (
        select case when s.is_called then s.last_value else 0 end as last
        from pgoutbox.position_seq s
    ), seen as materialized (
        select t.position, lag(t.position) over (order by t.position) as before
        from pgoutbox.transaction t where begin_position is null
    ), gap as materialized (
        select s.before + 1 as first, s.position - 1 as last
        from seen s where s.before < s.position - 1
        union all
        select s.last + 1, d.last
        from drawn d
        cross join (select coalesce(max(s.position), 0) as last from seen s) s
        where begin_position is null and s.last < d.last
    ), begun as (
        insert into pgoutbox.progress (relay, high, gap_first, gap_last)
        select
            begin_at.relay,
            coalesce(begin_position - 1, greatest(d.last, (select max(s.position) from seen s))),
            array(select g.first from gap g order by g.first),
            array(select g.last from gap g order by g.first)
        from drawn d
        on conflict do nothing
        returning 1
    )
    select exists (select from begun)
$$;
