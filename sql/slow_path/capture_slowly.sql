-- What a table's capture function would have rendered, for the table as it is now.
--
-- Called by a capture function whose guards say that it no longer fits: the table has
-- drifted, or the session's settings would show in the text of a value. `old_values_as`,
-- `captured` and `choice` are what that function was made with: how much of old rows events have,
-- which tables events may be named after, and which rows and columns they have (choice_of()). The
-- transaction's snapshot can be older than the table, so what is asked is asked of the parser and
-- of PostgreSQL's caches: slow, but never wrong.
--
-- `new_large` and `old_large` say which columns were left out of the rows, since they can't be
-- published (too_large.sql).
--
-- `action` is null where the change is none of a chosen row. Where the condition raises, the event
-- has no row but a mark that no relay can read (as_published.sql): so it is parked.
--
-- The settings below are those of a freshly installed server; lc_monetary is what it was at
-- install, since a money value has no currency of its own.
create or replace function pgoutbox.capture_slowly(
    relation oid, inout action text, new_values anyelement, old_values anyelement,
    old_values_as text, captured text[], choice jsonb, new_large jsonb, old_large jsonb,
    out schema_name text, out table_name text, out new_row text, out old_row text
)
    language plpgsql
    set search_path = pg_catalog, pg_temp
    set datestyle = 'ISO, MDY'
    set intervalstyle = 'postgres'
    set timezone = 'UTC'
    set extra_float_digits = 1
    set bytea_output = 'hex'
    set lc_monetary from current
as $$
declare
    names text[];
    expressions text[];
    identity text[];
begin
    select n.schema_name, n.table_name into schema_name, table_name
    from pgoutbox.named_as(relation, captured) n;
    select coalesce(array_agg(c.name), '{}'), coalesce(array_agg(c.expression), '{}')
    into names, expressions
    from pgoutbox.row_columns(relation, choice) c;
    if choice ? 'where' then
        begin
            action := pgoutbox.choose_slowly(
                choice ->> 'where', choice -> 'types', action, new_values, old_values);
        exception when others then
            new_row := to_json(format(
                E'\x02the condition on its table raised %s: %s', sqlstate, sqlerrm));
            return;
        end;
    end if;
    if action is null then
        return;
    end if;
    if action <> 'DELETE' then
        new_row := pgoutbox.render_row(new_values, names, expressions, new_large);
    end if;
    if action <> 'INSERT' and old_values_as = 'full' then
        old_row := pgoutbox.render_row(old_values, names, expressions, old_large);
    elsif action <> 'INSERT' then
        identity := pgoutbox.identity_of_change(
            relation, action, new_values, old_values, names,
            coalesce(new_large, '{}') || coalesce(old_large, '{}') <> '{}');
        old_row := case when identity <> '{}' then pgoutbox.render_row(
            old_values, names, array(
                select case
                    when p.name = any (identity) then p.expression else quote_literal('null') end
                from unnest(names, expressions) with ordinality p (name, expression, place)
                order by p.place
            ), old_large) end;
    end if;
end
$$;
