-- Make the event trigger that captures tables as they are made, or drop it; true where that is a
-- change. PostgreSQL lets superusers make event triggers, and some providers' administrators.
create or replace function pgoutbox.watch_tables(wanted boolean) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    is_there constant boolean := exists (
        select from pg_event_trigger t where t.evtname = 'pgoutbox_capture');
begin
    if wanted and not is_there then
        create event trigger pgoutbox_capture on ddl_command_end
            when tag in (
                'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE SCHEMA')
            execute function pgoutbox.capture_new_tables();
    elsif is_there and not wanted then
        drop event trigger pgoutbox_capture;
    end if;
    return wanted <> is_there;
end
$$;
