-- A row as the JSON object of an event, from the catalog as it is now.
--
-- A column that can't be rendered, because its type's output function raises, does not fail
-- the write: its value is {"unrenderable": "<SQLSTATE>: <message>"}.
create or replace function pgoutbox.render_row(relation oid, changed anyelement, only_columns text[] default null)
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
        execute 'select ' || pgoutbox.row_expression(relation, '($1)', only_columns) into rendered using changed;
        return rendered;
    exception when others then
        rendered := '';
    end;
    for part in select c.name, c.expression from pgoutbox.captured_columns(relation, '($1)') c loop
        value := 'null';
        if only_columns is null or part.name = any (only_columns) then
            begin
                execute 'select ' || part.expression into value using changed;
            exception when others then
                value := pg_catalog.json_build_object('unrenderable', sqlstate || ': ' || sqlerrm);
            end;
        end if;
        rendered := rendered || ',' || pg_catalog.to_json(part.name)::text || ':' || value;
    end loop;
    return pgoutbox.as_utf8('{' || pg_catalog.substr(rendered, 2) || '}');
end
$$;
