-- What a capture function is made for, in 32 characters: the table, and the names and types of its
-- columns, as the parser knows them.
--
-- Not asked of pg_attribute: a REPEATABLE READ transaction reads that as it was before an ALTER
-- TABLE of somebody else, while its rows have the columns of now. Not immutable at all, but called
-- so: PostgreSQL works it out when it plans the guard that it stands in (fits_source.sql).
create or replace function pgoutbox.parsed_shape(relation regclass) returns text
    language plpgsql
    immutable
as $$
declare
    columns record;
begin
    execute pg_catalog.concat('select (null::', relation, ').*') into columns;
    return pg_catalog.md5(pg_catalog.concat_ws(
        ' ',
        relation::pg_catalog.oid,
        -- Has the types, of values that are null; a row of no columns is null itself.
        pg_catalog.encode(pg_catalog.record_send(columns), 'hex'),
        pg_catalog.row_to_json(columns)
    ));
end
$$;
