-- What a table is to be captured for, by what is asked for and what is installed.
--
-- What isn't asked for (null) stays as it is installed, for the name that the table bears or else
-- for the table; one that isn't captured gets all actions, full old values, all rows and columns.
-- With `widen` the actions that are installed stay, beside those asked for. `is_needed` where
-- capture_table() has something to do that takes a lock; `former` is what a captured table is
-- called now whose name this one bears.
create or replace function pgoutbox.capture_wanted(
    relation regclass, asked_actions text[], asked_old_values text, widen boolean,
    asked_choice jsonb,
    out actions text[], out old_values text, out choice jsonb,
    out is_captured boolean, out is_as_installed boolean, out is_needed boolean,
    out former text
)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with own as (
        select s.* from pgoutbox.table_state s where s.relation = capture_wanted.relation
    ), before as (
        select s.relation, s.actions, s.old_values, s.choice, s.present_name
        from pgoutbox.table_state s
        where s.asked_name = pgoutbox.qualified_name(capture_wanted.relation)
           or s.relation = capture_wanted.relation
        order by s.relation = capture_wanted.relation
        limit 1
    ), wanted as (
        select
            array(
                select a from unnest('{INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) a
                where a = any (coalesce(asked_actions, b.actions, array[a]))
                    or widen and a = any (b.actions)
            ) as actions,
            coalesce(asked_old_values, b.old_values, 'full') as old_values,
            pgoutbox.merged_choice(b.choice, asked_choice) as choice,
            case when b.relation <> capture_wanted.relation
                -- As a partition of this table it is captured with it.
                and capture_wanted.relation <> all (array(
                    select a.relid from pg_partition_ancestors(b.relation) a (relid)
                ))
                then b.present_name end as former
        from (select) always left join before b on true
    )
    select
        w.actions, w.old_values, w.choice, o.relation is not null,
        coalesce((o.actions, o.old_values, o.choice) = (w.actions, w.old_values, w.choice), false),
        (o.actions, o.old_values, o.choice) is distinct from (w.actions, w.old_values, w.choice)
            or o.problem is not null,
        w.former
    from wanted w left join own o on true
$$;
