"""The questions to PostgreSQL's catalogs; each is one statement that changes nothing."""

SERVER = """
select
    pg_catalog.current_setting('server_version') as version,
    pg_catalog.current_setting('server_version_num')::int / 10000 as major,
    pg_catalog.pg_is_in_recovery() as is_standby,
    pg_catalog.current_setting('wal_level') as wal_level,
    pg_catalog.pg_notification_queue_usage() as queue,
    extract(epoch from pg_catalog.clock_timestamp())::float8 as now,
    (select s.ssl from pg_catalog.pg_stat_ssl s where s.pid = pg_catalog.pg_backend_pid()) as tls,
    pg_catalog.current_setting('max_connections')::int as max_connections,
    (
        select count(*) from pg_catalog.pg_stat_activity a where a.backend_type = 'client backend'
    ) as connections
"""

MARKS = """
select
    array(select r.rolname::text from pg_catalog.pg_roles r) as roles,
    array(
        select p.proname::text from pg_catalog.pg_proc p where p.proname = 'aurora_version'
    ) as functions
"""

RIGHTS = """
select
    current_user::text as role,
    coalesce(
        pg_catalog.has_schema_privilege(n.oid, 'CREATE'),
        pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
    ) as may_create,
    exists (
        select from pg_catalog.pg_class c where c.relnamespace = n.oid and c.relname = 'migration'
    ) as is_installed,
    n.nspowner::regrole::text as owner,
    pg_catalog.pg_has_role(n.nspowner, 'USAGE') as is_owner,
    pg_catalog.has_schema_privilege(n.oid, 'USAGE') as may_use
from (values (1)) one (row)
left join pg_catalog.pg_namespace n on n.nspname = 'pgoutbox'
"""

PUBLICATIONS = """
select p.pubname::text as name
from pg_catalog.pg_publication p
where (p.pubinsert or p.pubupdate or p.pubdelete or p.pubtruncate) and (p.puballtables or exists (
    select from pg_catalog.pg_publication_tables t
    where t.pubname = p.pubname and t.schemaname = 'pgoutbox'))
order by 1
"""

IDLE_SLOTS = """
select s.slot_name::text as name,
    pg_catalog.pg_size_pretty(pg_catalog.pg_wal_lsn_diff(
        pg_catalog.pg_current_wal_lsn(), s.restart_lsn)) as kept
from pg_catalog.pg_replication_slots s
where not s.active and s.restart_lsn is not null
order by 1
"""

REPLICA_ROLES = """
select
    coalesce('role ' || nullif(s.setrole, 0)::regrole::text, 'the database') as name
from pg_catalog.pg_db_role_setting s
where s.setdatabase in (0, (
        select d.oid from pg_catalog.pg_database d
        where d.datname = pg_catalog.current_database()))
  and exists (
      select from pg_catalog.unnest(s.setconfig) c (setting)
      where c.setting = 'session_replication_role=replica')
order by 1
"""

EVENT_TRIGGERS = """
select e.evtname::text as name from pg_catalog.pg_event_trigger e
where e.evtenabled <> 'D' and e.evtname <> 'pgoutbox_capture'
order by 1
"""

TRANSACTIONS = """
select a.pid, coalesce(nullif(a.application_name, ''), 'no name') as application,
    extract(epoch from pg_catalog.clock_timestamp() - a.xact_start)::float8 as open_s
from pg_catalog.pg_stat_activity a
where a.datname = pg_catalog.current_database() and a.pid <> pg_catalog.pg_backend_pid()
  and a.backend_type = 'client backend'
  and a.xact_start < pg_catalog.clock_timestamp() - interval '5 minutes'
order by a.xact_start
"""

PREPARED = """
select p.gid as name,
    extract(epoch from pg_catalog.clock_timestamp() - p.prepared)::float8 as open_s
from pg_catalog.pg_prepared_xacts p
where p.database = pg_catalog.current_database()
  and p.prepared < pg_catalog.clock_timestamp() - interval '5 minutes'
order by p.prepared
"""

CAPTURED = "select c.relation::oid as oid from pgoutbox.captured_table c order by c.number"

# That of a session of this role, by which its names are meant.
OWN_SEARCH_PATH = """
select pg_catalog.set_config('search_path', s.reset_val, true)
from pg_catalog.pg_settings s where s.name = 'search_path'
"""

NAMED = """
select w.name, pg_catalog.to_regclass(w.name)::oid as oid
from pg_catalog.unnest($1::text[]) w (name)
"""

# Bare names of a filter: that table in every schema.
FILTERED = """
select w.name, c.oid
from pg_catalog.unnest($1::text[]) w (name)
left join (
    pg_catalog.pg_class c join pg_catalog.pg_namespace n
        on n.oid = c.relnamespace and n.nspname !~ '^pg_'
        and n.nspname not in ('information_schema', 'pgoutbox')
) on c.relname = w.name and c.relkind in ('r', 'p')
"""

TABLES = """
select
    c.oid, n.nspname::text as schema, c.relname::text as name, c.relkind::text as kind,
    c.relowner::regrole::text as owner, pg_catalog.pg_has_role(c.relowner, 'USAGE') as is_owner,
    pg_catalog.has_table_privilege(c.oid, 'SELECT') as may_read,
    greatest(c.relpages, 1) as pages
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.oid = any ($1::oid[])
order by 2, 3
"""

DEFERRABLE = """
select pg_catalog.format('%s on %s', c.conname, c.conrelid::regclass) as name
from pg_catalog.pg_constraint c
where c.conrelid = any ($1::oid[]) and c.condeferrable
order by 1
"""

UNCAPTURED_PARTITIONS = """
select p.relid::regclass::text as name
from pgoutbox.captured_table c
join pg_catalog.pg_class r on r.oid = c.relation and r.relkind = 'p'
cross join lateral pg_catalog.pg_partition_tree(c.relation) p
where p.isleaf and p.relid <> c.relation and c.actions && '{INSERT,UPDATE,DELETE}'
  and not exists (
      select from pg_catalog.pg_trigger t
      where t.tgrelid = p.relid and t.tgname::text ~ '^00_pgoutbox' and t.tgenabled in ('O', 'A'))
order by 1
"""

UNCAPTURED_CHILDREN = """
select i.inhrelid::regclass::text as name
from pgoutbox.captured_table c
join pg_catalog.pg_inherits i on i.inhparent = c.relation
join pg_catalog.pg_class child on child.oid = i.inhrelid and not child.relispartition
where not exists (select from pgoutbox.captured_table o where o.relation = i.inhrelid)
order by 1
"""

SUBSCRIBED = """
select pg_catalog.format('%s by subscription %s', s.srrelid::regclass, u.subname) as name
from pg_catalog.pg_subscription_rel s
join pg_catalog.pg_subscription u on u.oid = s.srsubid
where s.srrelid = any ($1::oid[]) and not exists (
    select from pg_catalog.pg_trigger t
    where t.tgrelid = s.srrelid and t.tgname::text ~ '^00_pgoutbox' and t.tgenabled in ('A', 'R'))
order by 1
"""
