-- Generate a captured table's capture function anew; takes no lock on the table.
--
-- Runs as the owner of the function it replaces, so that a relay whose role owns nothing
-- can mend drift. Several at once wait for one another instead of failing on the catalog row.
create or replace function pgoutbox.refresh_capture(relation regclass) returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    known oid[];
    check_bodies constant text := current_setting('check_function_bodies');
    captured pgoutbox.captured_table;
    shape_before text;
    key jsonb;
    shape record;
begin
    select c.* into strict captured
    from pgoutbox.captured_table c where c.relation = refresh_capture.relation for update;
    -- By now, so that what others have made meanwhile, and lent, is among them.
    known := pgoutbox.known_objects();
    -- Taken first: what changes while the function is generated shall be seen as drift.
    shape_before := pgoutbox.table_shape(refresh_capture.relation, captured.old_values);
    for shape in select t.* from pgoutbox.shape_type(refresh_capture.relation) t loop
        if to_regtype(shape.name) is null then
            execute format('create type %s as (%s)', shape.name, shape.attributes);
        end if;
    end loop;
    if captured.choice ? 'where' then
        update pgoutbox.captured_table c
        set condition_types = pgoutbox.check_condition(c.relation, c.choice ->> 'where')
        where c.relation = refresh_capture.relation and c.condition_types is null;
        execute format(
            'create or replace function pgoutbox.choose_%s('
            'action text, new_values anyelement, old_values anyelement) returns text '
            'language plpgsql set search_path = pg_catalog, pg_temp '
            'set standard_conforming_strings = on set transform_null_equals = off '
            'set timezone = ''UTC'' set datestyle = ''ISO, MDY'' set intervalstyle = ''postgres'' '
            'as %L',
            captured.number,
            pgoutbox.choose_source(
                captured.choice ->> 'where', pgoutbox.condition_types(relation))
        );
    end if;
    -- Fields are assigned to its parameters, which are no rows before it is called.
    perform set_config('check_function_bodies', 'off', true);
    execute format(
        'create or replace function pgoutbox.capture_slowly_%s('
        'facts pgoutbox.event_facts, tg_op text, new anyelement, old anyelement) returns text '
        'language plpgsql set search_path = pg_catalog, pg_temp as %L',
        captured.number, pgoutbox.slow_source(relation)
    );
    perform set_config('check_function_bodies', check_bodies, true);
    execute format(
        'create or replace function pgoutbox.capture_%s() returns trigger '
        'language plpgsql security definer as %L',
        captured.number, pgoutbox.capture_source(relation)
    );
    perform pgoutbox.close_to_others(known);
    perform pgoutbox.lend_capture(captured);
    -- What a copy of the structure alone knows of captured_table; see recover_captured_tables().
    execute format(
        'comment on function pgoutbox.capture_%s() is %L',
        captured.number,
        concat_ws(' ', captured.old_values, nullif(captured.choice::text, '{}')));
    update pgoutbox.captured_table c
    set shape = shape_before
    where c.relation = refresh_capture.relation and c.shape is distinct from shape_before;
    key := to_jsonb(pgoutbox.key_columns(refresh_capture.relation, captured.old_values));
    update pgoutbox.captured_table c
    set keys = jsonb_build_array(key) || c.keys
    where c.relation = refresh_capture.relation
      and key is not null and c.keys -> 0 is distinct from key;
end
$$;
