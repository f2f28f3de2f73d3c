-- Whether values may be given for all these columns, which is so unless one is generated.
--
-- PREPARE asks the parser, as row_columns() does, and runs nothing. Whatever else it complains of
-- comes after that question, and is none of ours.
create or replace function pgoutbox.is_insertable(relation regclass, names text[]) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    execute (
        select format(
            'prepare pgoutbox_is_insertable as insert into %s (%s) '
            'overriding system value values (%s)',
            relation, string_agg(quote_ident(n), ', '), string_agg('null', ', '))
        from unnest(names) n
    );
    deallocate pgoutbox_is_insertable;
    return true;
exception
    when generated_always or syntax_error then  -- the latter in PostgreSQL 13
        return false;
    when others then
        return true;
end
$$;
