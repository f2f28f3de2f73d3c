-- What a table is to be captured for, by what is asked for and what is installed.
--
-- What isn't asked for (null) stays as it is installed; a table that isn't captured gets all
-- actions and full old values. With `widen` the actions that are installed stay, beside those
-- asked for. `is_needed` where capture_table() has something to do.
create or replace function pgoutbox.capture_wanted(
    relation regclass, asked_actions text[], asked_old_values text, widen boolean,
    out actions text[], out old_values text,
    out is_captured boolean, out is_as_installed boolean, out is_needed boolean
)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with wanted as (
        select
            array(
                select a from unnest('{INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) a
                where a = any (coalesce(asked_actions, i.actions, array[a]))
                    or widen and a = any (i.actions)
            ) as actions,
            coalesce(asked_old_values, i.old_values, 'full') as old_values,
            i.actions as installed_actions, i.old_values as installed_old_values, i.problem
        from (select capture_wanted.relation) r
        left join pgoutbox.table_state i on i.relation = r.relation
    ), compared as (
        select w.*,
            w.installed_actions is not null as is_captured,
            w.installed_actions @> w.actions and w.actions @> w.installed_actions
                and w.installed_old_values = w.old_values as is_as_installed
        from wanted w
    )
    select c.actions, c.old_values, c.is_captured, c.is_as_installed is true,
        c.is_as_installed is not true or c.problem is not null
    from compared c
$$;
