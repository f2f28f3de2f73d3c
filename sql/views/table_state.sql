-- Each captured table, and what is wrong with it.
--
-- problem: null (nothing), 'drift' (pgoutbox.refresh_capture() mends it), 'trigger' (missing or
-- disabled), 'not_always' (a trigger that was ENABLE ALWAYS isn't any more), 'replaced' (another
-- table, the successor, bears the name that was asked for), 'missing' (the table is gone, and no
-- other bears its name). `pgoutbox install` mends what isn't missing.
create or replace view pgoutbox.table_state as
select
    c.relation,
    c.schema_name,
    c.table_name,
    c.actions,
    c.old_values,
    case
        when s.successor is not null then 'replaced'
        when r.oid is null then 'missing'
        when c.actions && '{INSERT,UPDATE,DELETE}' and not exists (
            select from pg_catalog.pg_trigger t
            where t.tgrelid = c.relation
              and t.tgname in ('00_pgoutbox', '00_pgoutbox_alone_' || c.number)
              and t.tgenabled in ('O', 'A')
        ) or 'TRUNCATE' = any (c.actions) and not exists (
            select from pg_catalog.pg_trigger t
            where t.tgrelid = c.relation and t.tgname = '00_pgoutbox_truncate'
              and t.tgenabled in ('O', 'A')
        ) then 'trigger'
        when exists (
            select from pg_catalog.pg_trigger t
            where t.tgrelid = c.relation and t.tgname = any (c.fires_always)
              and t.tgenabled = 'O'
        ) then 'not_always'
        when c.shape <> pgoutbox.table_shape(c.relation, c.old_values) then 'drift'
    end as problem,
    pg_catalog.format('%I.%I', c.schema_name, c.table_name) as asked_name,
    pgoutbox.qualified_name(c.relation) as present_name,
    s.successor,
    c.choice
from pgoutbox.captured_table c
left join pg_catalog.pg_class r on r.oid = c.relation
cross join lateral pgoutbox.successor_of(c) s (successor);

comment on view pgoutbox.table_state is 'Each captured table, and what is wrong with it.';
comment on column pgoutbox.table_state.asked_name is
    'The name under which it was captured, quoted.';
comment on column pgoutbox.table_state.present_name is
    'The name that it has, quoted; null where it is gone.';
comment on column pgoutbox.table_state.successor is
    'What bears the name that was asked for, and isn''t captured.';
