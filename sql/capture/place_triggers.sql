-- Give a table the triggers that it is to have (trigger_changes()); true where one was made or
-- dropped. Runs with the rights of who calls, who has to own the table.
create or replace function pgoutbox.place_triggers(relation regclass) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    -- All of them first: what they are is asked of the very triggers.
    changes constant text[] := array(select pgoutbox.trigger_changes(relation));
    change text;
begin
    foreach change in array changes loop
        execute change;
    end loop;
    return changes <> '{}';
end
$$;
