-- The context of this transaction as JSON: what set_context() was given, and where the installation
-- asks for it who its session is. Null where there is none of either. Called by functions that have
-- pinned the search_path.
create or replace function pgoutbox.transaction_context() returns text
    language plpgsql
    stable
as $$
declare
    setting constant text := current_setting('pgoutbox.context', true);
    tag constant text := pgoutbox.transaction_tag();
    given constant text := case
        when starts_with(setting, tag) then nullif(substr(setting, length(tag) + 1), '') end;
    session jsonb;
begin
    if not (select i.captures_sessions from pgoutbox.installation i) then
        return given;
    end if;
    session := jsonb_build_object('session', jsonb_strip_nulls(jsonb_build_object(
        'user', session_user,
        'application', nullif(current_setting('application_name'), ''),
        'address', host(inet_client_addr()))));
    return pgoutbox.as_utf8((case
        when given is null then session
        when jsonb_typeof(given::jsonb) = 'object' then given::jsonb || session
        else jsonb_build_object('context', given::jsonb) || session end)::text);
end
$$;
