-- The condition on which a setting shows nothing in the text of values.
create or replace function pgoutbox.setting_source(setting text) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select case setting
        -- Names of objects are written as a session's search_path finds them.
        when 'search_path' then 'false'
        when 'extra_float_digits' then
            'pg_catalog.current_setting(''extra_float_digits'')::pg_catalog.int4'
            ' operator(pg_catalog.>) 0'
        when 'DateStyle' then
            'pg_catalog.starts_with(pg_catalog.current_setting(''DateStyle''), ''ISO'')'
        else format(
            'pg_catalog.current_setting(%L) operator(pg_catalog.=) %L',
            setting,
            case setting
                when 'IntervalStyle' then 'postgres'
                when 'TimeZone' then 'UTC'
                when 'bytea_output' then 'hex'
                when 'lc_monetary' then pgoutbox.monetary_locale()
            end
        ) end
$$;
