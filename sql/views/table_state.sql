-- Each captured table, and what is wrong with it.
--
-- problem: null (nothing), 'drift' (pgoutbox.refresh_capture() mends it), 'trigger' (missing
-- or disabled: `pgoutbox install` mends it), 'missing' (the table is gone).
create or replace view pgoutbox.table_state as
select
    c.relation,
    c.schema_name,
    c.table_name,
    c.actions,
    c.old_values,
    case
        when r.oid is null then 'missing'
        when c.actions && '{INSERT,UPDATE,DELETE}' and not exists (
            select from pg_catalog.pg_trigger t
            where t.tgrelid = c.relation and t.tgname in ('00_pgoutbox', '00_pgoutbox_alone_' || c.number) and t.tgenabled in ('O', 'A')
        ) or 'TRUNCATE' = any (c.actions) and not exists (
            select from pg_catalog.pg_trigger t
            where t.tgrelid = c.relation and t.tgname = '00_pgoutbox_truncate' and t.tgenabled in ('O', 'A')
        ) then 'trigger'
        when c.shape <> pgoutbox.table_shape(c.relation, c.old_values) then 'drift'
    end as problem
from pgoutbox.captured_table c
left join pg_catalog.pg_class r on r.oid = c.relation;

comment on view pgoutbox.table_state is 'Each captured table, and what is wrong with it.';
