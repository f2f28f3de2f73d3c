-- Fail where this schema is older than a release of pgoutbox; for migrations that it has written.
create or replace function pgoutbox.require_release(release text) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    installed constant text := (select i.functions_version from pgoutbox.installation i);
begin
    if array(select m[1]::int from regexp_matches(split_part(installed, '+', 1), '[0-9]+', 'g') m)
        < array(select m[1]::int from regexp_matches(release, '[0-9]+', 'g') m)
    then
        raise exception 'the schema pgoutbox (%) is older than pgoutbox %, which wrote this',
            split_part(installed, '+', 1), release
            using hint = 'Run: pgoutbox install';
    end if;
end
$$;
