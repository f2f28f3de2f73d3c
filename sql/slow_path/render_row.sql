-- A row as the JSON object of an event, by the expressions that row_columns() made for it.
--
-- A column that can't be rendered, because its type's output function raises, does not fail
-- the write: its value is {"unrenderable": "<SQLSTATE>: <message>"}.
create or replace function pgoutbox.render_row(changed anyelement, names text[], expressions text[])
    returns text
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    rendered text;
    part record;
    value text;
begin
    begin
        execute 'select ' || pgoutbox.object_expression(names, expressions)
        into rendered using changed;
        return rendered;
    exception when others then
        rendered := '';
    end;
    for part in
        select p.name, p.expression from unnest(names, expressions) p (name, expression)
    loop
        begin
            execute 'select ' || part.expression into value using changed;
        exception when others then
            value := json_build_object('unrenderable', sqlstate || ': ' || sqlerrm);
        end;
        rendered := rendered || ',' || to_json(part.name)::text || ':' || value;
    end loop;
    return pgoutbox.as_utf8('{' || substr(rendered, 2) || '}');
end
$$;
