-- Say who or what this transaction is for: any JSON, which its events' messages can carry.
--
-- For this transaction alone, whatever pool its session belongs to: PostgreSQL takes the settings
-- back at its end, and the value names the transaction, so that what somebody sets by hand counts
-- for nothing. The last call wins; null takes it back. Nothing is written, and no transaction id
-- drawn. The setting pgoutbox.transaction (capture_unusual.sql) has the commit stage look at it.
create or replace function pgoutbox.set_context(context jsonb) returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    content constant text := case getdatabaseencoding()
        when 'SQL_ASCII' then pgoutbox.as_utf8(context::text) else context::text end;
    state constant text := coalesce(current_setting('pgoutbox.transaction', true), '');
begin
    if octet_length(content) > 4096 then
        raise exception 'the context is too large: % bytes, of at most 4096', octet_length(content)
            using errcode = 'invalid_parameter_value';
    elsif jsonb_typeof(context) = 'object' and context ? 'session' then
        raise exception 'the context can''t have a field "session": pgoutbox has one'
            using errcode = 'invalid_parameter_value';
    end if;
    perform set_config('pgoutbox.context', concat(pgoutbox.transaction_tag(), content), true);
    if state = '' then
        perform set_config('pgoutbox.transaction', '0 context', true);
    elsif state ~ '^[0-9]+ [0-9]+( lap)?$' then
        perform set_config(
            'pgoutbox.transaction', regexp_replace(state, '( lap)?$', E' context\\1'), true);
    end if;
end
$$;
