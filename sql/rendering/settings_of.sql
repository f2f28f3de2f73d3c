-- The session settings on which the text form of a type depends, whatever it is made of.
--
-- Empty for types whose text form is the same in every session. Types that PostgreSQL
-- doesn't ship may depend on any of them, except for those of some well-known extensions.
create or replace function pgoutbox.settings_of(type oid) returns text[]
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    described pg_catalog.pg_type;
    part oid;
    found_settings text[] := '{}';
begin
    select t.* into described from pg_catalog.pg_type t where t.oid = type;
    if described.typtype = 'd' then
        return pgoutbox.settings_of(described.typbasetype);
    elsif described.typtype = 'e' then
        return '{}';
    elsif described.typelem <> 0 and described.typlen = -1 then
        return pgoutbox.settings_of(described.typelem);
    elsif described.typtype = 'c' then
        for part in
            select a.atttypid from pg_catalog.pg_attribute a
            where a.attrelid = described.typrelid and a.attnum > 0 and not a.attisdropped
        loop
            found_settings := found_settings || pgoutbox.settings_of(part);
        end loop;
    elsif described.typtype in ('r', 'm') then
        -- A multirange (PostgreSQL 14) is its range's; to_jsonb() spares naming a column
        -- that 13 doesn't have.
        select pgoutbox.settings_of(r.rngsubtype) into found_settings
        from pg_catalog.pg_range r
        where r.rngtypid = type or (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::oid = type;
    else
        found_settings := case
            when type in (
                'boolean'::regtype, 'smallint'::regtype, 'integer'::regtype, 'bigint'::regtype,
                'numeric'::regtype, 'text'::regtype, 'varchar'::regtype, 'bpchar'::regtype,
                'name'::regtype, '"char"'::regtype, 'uuid'::regtype, 'json'::regtype,
                'jsonb'::regtype, 'jsonpath'::regtype, 'xml'::regtype, 'time'::regtype,
                'timetz'::regtype, 'inet'::regtype, 'cidr'::regtype, 'macaddr'::regtype,
                'macaddr8'::regtype, 'bit'::regtype, 'varbit'::regtype, 'tsvector'::regtype,
                'tsquery'::regtype, 'oid'::regtype, 'xid'::regtype, 'xid8'::regtype,
                'cid'::regtype, 'tid'::regtype, 'pg_lsn'::regtype, 'pg_snapshot'::regtype,
                'txid_snapshot'::regtype, 'refcursor'::regtype, 'oidvector'::regtype,
                'int2vector'::regtype
            ) then '{}'
            when type in (
                'real'::regtype, 'double precision'::regtype, 'point'::regtype, 'line'::regtype,
                'lseg'::regtype, 'box'::regtype, 'path'::regtype, 'polygon'::regtype,
                'circle'::regtype
            ) then '{extra_float_digits}'
            when exists (
                -- Extensions whose types are known to depend on nothing else.
                select from pg_catalog.pg_depend d
                join pg_catalog.pg_extension e on e.oid = d.refobjid
                where d.classid = 'pg_catalog.pg_type'::regclass and d.objid = type
                  and d.refclassid = 'pg_catalog.pg_extension'::regclass and d.deptype = 'e'
                  and e.extname in (
                      'citext', 'cube', 'hstore', 'intarray', 'isn', 'ltree', 'postgis', 'seg',
                      'vector'
                  )
            ) then '{extra_float_digits}'
            when type in ('date'::regtype, 'timestamp'::regtype) then '{DateStyle}'
            when type = 'timestamptz'::regtype then '{DateStyle,TimeZone}'
            when type = 'interval'::regtype then '{IntervalStyle}'
            when type = 'money'::regtype then '{lc_monetary}'
            when type = 'bytea'::regtype then '{bytea_output}'
            else array[
                'extra_float_digits', 'DateStyle', 'TimeZone', 'IntervalStyle', 'lc_monetary',
                'bytea_output', 'search_path'
            ]
        end;
    end if;
    return (
        select coalesce(pg_catalog.array_agg(distinct s order by s), '{}')
        from pg_catalog.unnest(found_settings) s
    );
end
$$;
