-- The body of a captured table's slow function, capture_slowly_<number>(): what is left to do of a
-- change that its capture function can't render, or isn't to.
--
-- Apart from that one, so that a session which never needs it doesn't compile it. `facts` are the
-- event's, with the names as they were; their action is null before the condition was evaluated.
--
-- The row is rendered by capture_slowly(), after what can't be published has been taken out: sizes
-- are known without reading or copying a value. Nor is one copied to hand the row over to this
-- function, as long as that is done by an assignment: PERFORM would plan a query for the very row.
-- A row too large to be handed on all the same is captured by its key. Returns null.
create or replace function pgoutbox.slow_source(relation regclass) returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    choice constant jsonb := pgoutbox.choice_of(relation);
    captured constant text := quote_literal(pgoutbox.captured_among(relation));
begin
    return pgoutbox.filled($body$
declare
    action constant text := coalesce(facts.action, tg_op);
    nothing text;
    new_large jsonb;
    old_large jsonb;
    rendered record;
begin
    begin{strip}
        rendered := pgoutbox.capture_slowly(
            facts.relation, action, new, old, {old_values}, {captured}, {choice},
            new_large, old_large);
    exception when program_limit_exceeded or internal_error or out_of_memory then
        select
            n.schema_name, n.table_name, action,
            case when tg_op <> 'DELETE' then {new_key} end as new_row,
            case when tg_op <> 'INSERT' then {old_key} end as old_row
        into rendered
        from pgoutbox.named_as(facts.relation, {captured}) n;
    end;
    if rendered.action is not null then
        facts.schema_name := pgoutbox.as_utf8(rendered.schema_name);
        facts.table_name := pgoutbox.as_utf8(rendered.table_name);
        facts.action := rendered.action;
        perform pgoutbox.capture_unusual(
            pgoutbox.slot(now()), facts, rendered.new_row, rendered.old_row, {may_defer});
    end if;
    return null;
end
$body$, jsonb_build_object(
        'strip', pgoutbox.strip_source(relation, choice ? 'where'),
        'old_values', (
            select quote_literal(c.old_values)
            from pgoutbox.captured_table c where c.relation = slow_source.relation),
        'captured', captured,
        'choice', case when choice ? 'where' then format(
            'case when facts.action is null then %L else %L end::jsonb',
            choice, choice - 'where') else quote_literal(choice) end,
        'new_key', pgoutbox.key_row_source(relation, 'new'),
        'old_key', pgoutbox.key_row_source(relation, 'old'),
        'may_defer', pgoutbox.may_defer(relation)
    ));
end
$$;
