-- A value as the keyed hash of its text: HMAC-SHA256 (RFC 2104) with the installation's key, in
-- hexadecimal. Null where there is no key, as in a copy of the structure alone.
create or replace function pgoutbox.keyed_hash(value text) returns text
    language plpgsql
    stable
as $$
begin
    return (
        select pg_catalog.encode(pg_catalog.sha256(
            k.outer_key operator(pg_catalog.||) pg_catalog.sha256(
                k.inner_key operator(pg_catalog.||) pg_catalog.convert_to(
                    case pg_catalog.getdatabaseencoding() when 'SQL_ASCII'
                        then pgoutbox.as_utf8(value) else value end, 'UTF8'))), 'hex')
        from pgoutbox.hash_key k
    );
end
$$;
