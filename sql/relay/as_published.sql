-- A row as it is published, of one as it was stored.
--
-- Time stamps are stored without their Z. Where one is due, the name that follows begins with a
-- control character (rendering/shape_columns.sql). As in JSON, behind a quotation mark that
-- nothing escapes, it stands nowhere else: in a string such a mark is escaped, and jsonb has a
-- space before each name. RFC 3339 has no form for infinity and years before 1; these keep
-- PostgreSQL's words: "infinity", "0044-03-15T12:00:00Z BC". What begins with one is no row: it
-- says why there is none (capture_slowly.sql), and raises that.
create or replace function pgoutbox.as_published(stored text) returns text
    language sql
    immutable
as $$
    select case when pg_catalog.strpos(stored, E'"\\u0002') operator(pg_catalog.=) 0 then stored
        when pg_catalog.starts_with(stored, E'"\\u0002') then pgoutbox.unpublishable(stored)
        else pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
            pg_catalog.replace(pg_catalog.replace(stored,
                E'infinity","\\u0002', 'infinity","'),
                E' BC","\\u0002', 'Z BC","'),
                E'","\\u0002', 'Z","'),
                E',"\\u0002', ',"'),
                ',"":null}', '}')
        end
$$;
