-- Text of a database with the encoding SQL_ASCII, where it can be any bytes, as UTF-8.
--
-- Each byte that is not part of a character becomes U+FFFD, as Go's JSON encoder makes it, and
-- with it wal-listener. In all other encodings text is what it is. E'' means the same whatever a
-- session has set standard_conforming_strings to.
create or replace function pgoutbox.as_utf8(value text) returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if getdatabaseencoding() <> 'SQL_ASCII' or value !~ E'[\\x80-\\xff]' then
        return value;
    end if;
    return (
        -- One character is one byte here.
        select string_agg(coalesce(part[1], chr(239) || chr(191) || chr(189)), '' order by place)
        from regexp_matches(
            value,
            E'([\\x01-\\x7f]+|[\\xc2-\\xdf][\\x80-\\xbf]|\\xe0[\\xa0-\\xbf][\\x80-\\xbf]'
            '|[\\xe1-\\xec\\xee\\xef][\\x80-\\xbf]{2}'
            '|\\xed[\\x80-\\x9f][\\x80-\\xbf]|\\xf0[\\x90-\\xbf][\\x80-\\xbf]{2}'
            '|[\\xf1-\\xf3][\\x80-\\xbf]{3}'
            '|\\xf4[\\x80-\\x8f][\\x80-\\xbf]{2})|[\\x80-\\xff]',
            'g'
        ) with ordinality m (part, place)
    );
end
$$;
