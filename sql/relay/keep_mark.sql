-- Keep a mark: the progress of a relay, and the last message that the stream had confirmed by then.
--
-- With `thins_out` those are dropped that nobody needs: from the first one back before which all
-- slots are empty, since nothing older could be sent again, and of those that are older than five
-- minutes, an hour and a day all but the first of each minute, hour and day. What lies between
-- two marks may be sent twice, and the stream drops it as repeats only for some minutes anyway.
create or replace function pgoutbox.keep_mark(
    relay text, progress jsonb, last_stored jsonb, thins_out boolean
) returns void
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
    insert into pgoutbox.mark (relay, sequence, progress, last_stored)
    values (
        keep_mark.relay, coalesce((keep_mark.last_stored ->> 'sequence')::bigint, 0),
        keep_mark.progress, keep_mark.last_stored
    )
    on conflict on constraint mark_pkey do update
    set progress = excluded.progress, last_stored = excluded.last_stored,
        made_at = excluded.made_at;

    delete from pgoutbox.mark m
    using (
        select
            o.sequence,
            row_number() over (partition by u.unit, date_trunc(u.unit, o.made_at)
                order by o.sequence) as place,
            max(o.sequence) filter (
                where (o.progress ->> 'high')::bigint < coalesce(
                    (select min(t.position) from pgoutbox.transaction t), 9223372036854775807)
            ) over () as first_needed
        from pgoutbox.mark o
        cross join lateral (
            select case
                when o.made_at > clock_timestamp() - interval '5 minutes' then 'microseconds'
                when o.made_at > clock_timestamp() - interval '1 hour' then 'minute'
                when o.made_at > clock_timestamp() - interval '1 day' then 'hour'
                else 'day' end as unit
        ) u
        where o.relay = keep_mark.relay
    ) o
    where thins_out and m.relay = keep_mark.relay and m.sequence = o.sequence
      and (
          o.sequence < o.first_needed
          or (o.place > 1 and o.sequence is distinct from o.first_needed)
      )
$$;
