-- A template with each {token} replaced by its value, which is not looked at for further ones.
create or replace function pgoutbox.filled(template text, tokens jsonb) returns text
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select string_agg(
        case when part.number % 2 = 1 then part.text else coalesce(tokens ->> part.text, '') end, ''
        order by part.number
    )
    from regexp_split_to_table(template, '[{}]') with ordinality part (text, number)
$$;
