-- Fail, with a sentence, where rows and columns can't be chosen so. A condition is checked by
-- refresh_capture().
create or replace function pgoutbox.check_choice(relation regclass, choice jsonb) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    root constant regclass := pgoutbox.captured_root(relation);
    problem text;
begin
    select case
        when choice = '{}' then null
        when root is not null
        then format('it is a partition of %s, which is captured: choose rows and columns there',
            root)
        when choice ? 'columns' and choice ? 'except'
        then 'name either the columns to capture or those to leave out'
        else coalesce(
            (
                select format('there is no column %I in it that is captured', n.name)
                from jsonb_each(choice - 'where') part (kind, names)
                cross join lateral jsonb_array_elements_text(part.names) n (name)
                where not exists (
                    select from pg_attribute a
                    where a.attrelid = relation and a.attname = n.name and a.attnum > 0
                      and not a.attisdropped and a.attgenerated = ''
                )
                limit 1
            ),
            (
                select format('the column %I is part of the key, which is always captured', n.name)
                from jsonb_array_elements_text(
                    coalesce(choice -> 'except', '[]') || coalesce(choice -> 'hash', '[]')
                ) n (name)
                where n.name = any (pgoutbox.kept_columns(relation))
                limit 1
            )
        ) end
    into problem;
    if problem is not null then
        raise exception '%', problem using errcode = 'invalid_parameter_value';
    end if;
end
$$;
