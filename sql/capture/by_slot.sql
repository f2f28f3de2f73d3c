-- A statement of plpgsql for each slot, of which the one for `event_slot` is run.
--
-- `statement` has %s where its slot's number goes. A name that is only known at run time would
-- need EXECUTE, which plans anew each time; a partitioned table takes longer to find the place.
create or replace function pgoutbox.by_slot(statement text) returns text
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select pg_catalog.format(
        $choice$if event_slot operator(pg_catalog.<) 2 then
            if event_slot operator(pg_catalog.<) 1 then %s else %s end if;
        elsif event_slot operator(pg_catalog.<) 3 then %s
        elsif event_slot operator(pg_catalog.<) 4 then %s
        else %s end if;$choice$,
        variadic array(
            select pg_catalog.replace(statement, '%s', slot::text) from pg_catalog.generate_series(0, 4) slot
        )
    )
$$;
