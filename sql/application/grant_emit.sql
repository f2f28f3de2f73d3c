-- Let a role emit events of its own and set the context of its transactions: no right on any table,
-- and no reading of the outbox.
--
-- It is noted that there are such events, for a relay that makes a stream: theirs can have subjects
-- of several tokens.
create or replace function pgoutbox.grant_emit(role regrole) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    execute pg_catalog.format('grant usage on schema pgoutbox to %s', role);
    execute pg_catalog.format(
        'grant execute on function
             pgoutbox.emit(text, text, text, jsonb),
             pgoutbox.emit(text, jsonb, text, jsonb),
             pgoutbox.emit(text, json, text, jsonb),
             pgoutbox.set_context(jsonb)
         to %s', role);
    update pgoutbox.installation set emits = true where not emits;
end
$$;
