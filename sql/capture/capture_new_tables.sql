-- The event trigger of `pgoutbox install --event-trigger`: capture a table that is made again,
-- takes the name of a captured one or matches a pattern, in the transaction that makes it.
--
-- Whatever goes wrong in it is a warning: the command that it follows never fails by it. With the
-- rights of this schema's owner, since who makes tables may have none here.
create or replace function pgoutbox.capture_new_tables() returns event_trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '100ms'
as $$
declare
    made regclass;
begin
    for made in
        select distinct d.objid::regclass
        from pg_event_trigger_ddl_commands() d
        where d.classid = 'pg_class'::regclass and d.object_type = 'table' and not d.in_extension
          and d.schema_name not in ('pgoutbox', 'pg_temp')
    loop
        begin
            perform pgoutbox.capture_if_wanted(made);
        exception when others then
            raise warning 'pgoutbox could not capture %: %', made, sqlerrm;
        end;
    end loop;
exception when others then
    raise warning 'pgoutbox could not look at what was made: %', sqlerrm;
end
$$;
