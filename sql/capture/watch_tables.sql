-- Make the event trigger that captures tables as they are made, enable it, or drop it; true where
-- that is a change. PostgreSQL lets superusers make event triggers, and some providers'
-- administrators.
create or replace function pgoutbox.watch_tables(wanted boolean) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    enabled constant "char" := (
        select t.evtenabled from pg_event_trigger t where t.evtname = 'pgoutbox_capture');
    is_there constant boolean := enabled is not null;
    is_disabled constant boolean := enabled in ('D', 'R');
begin
    if wanted and not is_there then
        create event trigger pgoutbox_capture on ddl_command_end
            when tag in (
                'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE SCHEMA')
            execute function pgoutbox.capture_new_tables();
    elsif wanted and is_disabled then
        alter event trigger pgoutbox_capture enable;
    elsif is_there and not wanted then
        drop event trigger pgoutbox_capture;
    end if;
    return wanted <> is_there or wanted and is_disabled;
end
$$;
