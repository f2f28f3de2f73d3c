"""Whose schema pgoutbox it is: asked of the catalogs, before anything of that schema is read.

Whoever may create schemas can make one of this name, and what pgoutbox calls in it runs with the
rights of the role that pgoutbox connects as.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from pgoutbox.errors import SchemaError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose schema pgoutbox it is.

    ``work_as`` is the role that this session is to work as, quoted, where that isn't its own: the
    owner, if this is a superuser or a member of the owner. ``is_open`` says that others may create
    objects in it.
    """

    owner: str
    work_as: str | None
    is_open: bool


async def look(
    conn: Connection, trusted: str | None = None, *, mends: bool = False
) -> Ownership | None:
    """Find out whose schema it is; None where there is none.

    ``trusted`` is a role that may own it beside those that are trusted anyway. With ``mends``
    others may be allowed to create objects in it, which is about to be mended.

    Raises:
        SchemaError: its owner isn't trusted, it has objects of others, others may create objects
            in it, or it isn't pgoutbox's.
    """
    row = await conn.fetchrow(OWNERSHIP.format(trusted="$1::text"), trusted)
    if row is None:
        return None
    problem = row["problem"] or (None if mends else row["open_to"])
    if problem:
        raise SchemaError(problem, hint=row["hint"])
    return Ownership(row["owner"], row["work_as"], row["open_to"] is not None)


async def remedy(conn: Connection, table: int | None = None) -> str:
    """Return what to do where this role lacks a right: on the schema, or on a table by its OID."""
    row = await conn.fetchrow(_OWNERS, table)
    assert row is not None  # noqa: S101 - it has no FROM
    schema, owner, role = row["schema"], row["owner"], row["role"]
    if schema is None:
        return (
            f"Have an administrator run: create schema pgoutbox authorization {role}; or have one"
            " apply what this prints: pgoutbox install --print-sql"
        )
    grant = f"have role {schema} run: pgoutbox install --grant-capture {owner or role}"
    if owner is None:
        return (
            f"Run this as role {schema}, which owns the schema pgoutbox. For tables that role"
            f" {role} owns, {grant}"
        )
    if owner == role:
        return f"{grant[0].upper()}{grant[1:]}"
    return f"Run this as role {owner}, which owns the table; for that, {grant}"


async def to_be_named(conn: Connection, role: int) -> str | None:
    """Return the schema's owner, quoted, where ``role`` (its OID) doesn't trust it by itself."""
    owner: str | None = await conn.fetchval(_TO_BE_NAMED, role)
    return owner


_TO_BE_NAMED = """
select pg_catalog.quote_ident(o.rolname)
from pg_catalog.pg_namespace n
join pg_catalog.pg_roles o on o.oid = n.nspowner
join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
where n.nspname = 'pgoutbox' and not (
    o.rolsuper or o.oid = d.datdba or o.rolname = 'pg_database_owner'
    or pg_catalog.pg_has_role($1::oid, o.oid, 'MEMBER')
    or pg_catalog.pg_has_role(o.oid, $1::oid, 'MEMBER'))
"""

_OWNERS = """
select
    (
        select pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(n.nspowner))
        from pg_catalog.pg_namespace n where n.nspname = 'pgoutbox'
    ) as schema,
    (
        select pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner))
        from pg_catalog.pg_class c where c.oid = $1::oid
    ) as owner,
    pg_catalog.quote_ident(current_user) as role
"""

# One row where there is a schema pgoutbox. A role trusts its members, too, for they can do as it
# does without any function of theirs. A superuser trusts only other superusers, the database's
# owner and whom it names: any function may put off a role that was put on (SET ROLE).
# pg_database_owner stands for the database's owner, whose the objects are then.
OWNERSHIP = """\
select s.owner, s.problem, s.open_to, s.hint,
    case when s.may_work_as and s.owner <> current_user
        then pg_catalog.quote_ident(s.owner) end as work_as
from (
    select
        o.rolname as owner,
        case
            when me.is_superuser then true
            when pg_catalog.current_setting('server_version_num')::integer >= 160000
            then pg_catalog.pg_has_role(session_user, o.oid, 'SET')
            else pg_catalog.pg_has_role(session_user, o.oid, 'MEMBER')
        end as may_work_as,
        case
            when not (
                o.rolsuper or o.oid = d.datdba or o.rolname is not distinct from {trusted}
                or not me.is_superuser and (
                    o.rolname in (session_user, current_user)
                    or pg_catalog.pg_has_role(session_user, o.oid, 'MEMBER')
                    or pg_catalog.pg_has_role(o.oid, session_user, 'MEMBER'))
            ) then pg_catalog.format(
                'schema pgoutbox belongs to role %I, which is neither this role nor the database''s'
                ' owner nor a superuser, and what it put there would run with this role''s rights',
                o.rolname)
            when found.object is not null then pg_catalog.format(
                '%s belongs to role %I, and schema pgoutbox to role %I',
                found.object, found.owner, o.rolname)
            when not n.is_empty and not n.is_ours then
                'the schema pgoutbox was not made by pgoutbox: it has no table pgoutbox.migration'
        end as problem,
        case when open_to.name is not null then pg_catalog.format(
            '%s may create objects in schema pgoutbox, whose functions would run with this'
            ' role''s rights', open_to.name) end as open_to,
        case
            when found.object is not null then
                'Look at what that is, and drop it: all of pgoutbox''s own belongs to one role.'
            when not n.is_empty and not n.is_ours then
                'Rename that schema: pgoutbox''s own always has this name.'
            when open_to.name is not null then pg_catalog.format(
                'Run, as role %I, which takes that right away: pgoutbox install', o.rolname)
            else pg_catalog.format(
                'If you trust role %1$I, run this with --schema-owner %1$I' || case
                    when me.is_superuser then ', or as that role.'
                    else '; or have an administrator run, once: grant %2$I to %1$I'
                end, o.rolname, session_user)
        end as hint
    from (
        select
            n.oid, n.nspacl, n.nspowner as named_owner,
            case when r.rolname = 'pg_database_owner' then d.datdba else n.nspowner end as nspowner,
            not exists (select from pg_catalog.pg_class c where c.relnamespace = n.oid)
                and not exists (select from pg_catalog.pg_proc p where p.pronamespace = n.oid)
                as is_empty,
            exists (
                select from pg_catalog.pg_class c
                where c.relnamespace = n.oid and c.relname = 'migration') as is_ours
        from pg_catalog.pg_namespace n
        join pg_catalog.pg_roles r on r.oid = n.nspowner
        join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
        where n.nspname = 'pgoutbox'
    ) n
    join pg_catalog.pg_roles o on o.oid = n.nspowner
    join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
    cross join (
        select pg_catalog.bool_or(r.rolsuper) as is_superuser
        from pg_catalog.pg_roles r where r.rolname in (session_user, current_user)
    ) me
    left join lateral (
        select
            pg_catalog.pg_describe_object(x.class, x.oid, 0) as object, r.rolname as owner
        from (
            select 'pg_catalog.pg_class'::pg_catalog.regclass as class, c.oid, c.relowner as owner
            from pg_catalog.pg_class c where c.relnamespace = n.oid
            union all select 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, p.proowner
            from pg_catalog.pg_proc p where p.pronamespace = n.oid
            union all select 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, t.typowner
            from pg_catalog.pg_type t where t.typnamespace = n.oid
            union all select 'pg_catalog.pg_operator'::pg_catalog.regclass, p.oid, p.oprowner
            from pg_catalog.pg_operator p where p.oprnamespace = n.oid
            -- A trigger runs with the rights of whoever writes; it needs no right on the schema.
            union all select 'pg_catalog.pg_trigger'::pg_catalog.regclass, t.oid, p.proowner
            from pg_catalog.pg_class c
            join pg_catalog.pg_trigger t on t.tgrelid = c.oid
            join pg_catalog.pg_proc p on p.oid = t.tgfoid
            where c.relnamespace = n.oid
        ) x
        join pg_catalog.pg_roles r on r.oid = x.owner
        where x.owner <> n.nspowner and not (
            r.rolsuper and x.class = 'pg_catalog.pg_trigger'::pg_catalog.regclass)
        limit 1
    ) found on true
    left join lateral (
        select coalesce('role ' || pg_catalog.quote_ident(r.rolname), 'everybody') as name
        from pg_catalog.aclexplode(n.nspacl) a
        left join pg_catalog.pg_roles r on r.oid = a.grantee
        where a.privilege_type = 'CREATE' and a.grantee not in (n.nspowner, n.named_owner)
          and r.rolsuper is not true
        limit 1
    ) open_to on true
) s
"""
