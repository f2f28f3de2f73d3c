-- A condition for the rows of a table without a key that stand behind the place `last` and before
-- `upto`, the beginning of a page. They are found page by page, in order.
--
-- Before version 14 PostgreSQL finds single places, not a range of them.
create or replace function pgoutbox.places_before(alias text, last tid, upto tid) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select concat(
        format('%1$s.ctid > %2$L::tid and %1$s.ctid < %3$L::tid', alias, last, upto),
        case when current_setting('server_version_num')::integer < 140000 then format(
            ' and %s.ctid = any (array('
            'select format(''(%%s,%%s)'', page, line)::tid'
            ' from generate_series(%s::bigint, %s::bigint - 1) page,'
            ' generate_series(1, current_setting(''block_size'')::integer / 28) line))',
            alias, (last::text::point)[0], (upto::text::point)[0]) end)
$$;
