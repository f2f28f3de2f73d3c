-- A statement of plpgsql for each slot, of which the one for this transaction is run.
--
-- `statement` has %s where its slot's number goes, and `ring_second` is the time at which the
-- transaction began, in seconds from the ring's beginning. A name that is only known at run time
-- would need EXECUTE, which plans anew each time; a partitioned table takes longer to find the
-- place.
create or replace function pgoutbox.by_slot(statement text) returns text
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select format(
        $choice$if ring_second operator(pg_catalog.<) %2$s then
            if ring_second operator(pg_catalog.<) %1$s then %5$s else %6$s end if;
        elsif ring_second operator(pg_catalog.<) %3$s then %7$s
        elsif ring_second operator(pg_catalog.<) %4$s then %8$s
        else %9$s end if;$choice$,
        variadic array(select (n * r.period)::text from generate_series(1, r.slots - 1) n)
            || array(
                select replace(statement, '%s', slot::text)
                from generate_series(0, r.slots - 1) slot
            )
    )
    from pgoutbox.ring() r
$$;
