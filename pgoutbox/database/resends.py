"""Asking a relay to send events again that are still in the outbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from pgoutbox.database.pauses import NOTIFY, require_relay, who
from pgoutbox.database.tables import printable
from pgoutbox.errors import ConfigError
from pgoutbox.names import TableName

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of the sent events; all conditions that are given count. Positions are inclusive."""

    since: datetime | None = None
    before: datetime | None = None
    first: int | None = None
    last: int | None = None
    tables: Sequence[TableName] = ()
    ids: Sequence[UUID] = ()


async def resend(
    conn: Connection, relay: str, wanted: Selection, say: Say, *, dry_run: bool
) -> dict[str, Any]:
    """Ask a relay to send events again; return what that comes to, for machines.

    Asked for twice before the relay has begun, they are sent again once.

    Raises:
        ConfigError: no relay has that name, or it fills a bucket.

    """
    await require_relay(conn, relay)
    await _refuse_bucket(conn, relay)
    request = await _request(conn, relay, wanted)
    request["events"] = await conn.fetchval(_COUNT, json.dumps(request))
    state = {"relay": relay, "events": request["events"], "number": None, "dry_run": dry_run}
    name = printable(relay)
    what = _events(request["events"])
    if missing := len(set(wanted.ids)) - len(request["key_positions"] or ()):
        say(f"{missing} of the ids aren't in the outbox any more, or never were")
    if dry_run or not request["events"]:
        say(f"relay {name}: {what} would be sent again")
        return state
    async with conn.transaction():
        state["number"] = await conn.fetchval(_SAME, json.dumps(request))
        if state["number"] is None:
            state["number"] = await conn.fetchval(_ASK, json.dumps(request))
            say(f"relay {name}: {what} will be sent again, behind those that are newer")
        else:
            say(f"relay {name}: {what} will be sent again; that was asked for already")
        await conn.execute(NOTIFY)
    return state


async def _refuse_bucket(conn: Connection, relay: str) -> None:
    if await conn.fetchval(_FILLS_BUCKET, relay):
        raise ConfigError(
            f"the relay {printable(relay)} fills a key-value bucket, where events that are sent"
            " again would replace newer ones",
            hint="Have it filled anew: pgoutbox snapshot start TABLE --relay NAME",
        )


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count:,} events"


async def _request(conn: Connection, relay: str, wanted: Selection) -> dict[str, Any]:
    """Return the row of pgoutbox.resend; it ends with what is sent by now."""
    row = await conn.fetchrow(_SENT, relay)
    assert row is not None  # noqa: S101 - the relay is there
    last = row["high"] if wanted.last is None else min(row["high"], wanted.last)
    keys = await conn.fetch(_KEYS, list(wanted.ids)) if wanted.ids else None
    return {
        "relay": relay,
        "first_position": wanted.first or 1,
        "last_position": last,
        "since": wanted.since.isoformat() if wanted.since else None,
        "before": wanted.before.isoformat() if wanted.before else None,
        "table_schemas": [name.schema for name in wanted.tables] or None,
        "table_names": [name.table for name in wanted.tables] or None,
        "key_positions": None if keys is None else [key["position"] for key in keys],
        "key_seqs": None if keys is None else [key["seq"] for key in keys],
        "events": 0,
        "sent": 0,
        "done_position": 0,
        "done_seq": 0,
        "asked_by": who(),
    }


_SENT = "select p.high from pgoutbox.progress p where p.relay = $1"

_FILLS_BUCKET = "select p.share like '--kv %' from pgoutbox.progress p where p.relay = $1"

_KEYS = (
    "select o.position, o.seq from pgoutbox.outbox o where o.id = any ($1::uuid[]) order by 1, 2"
)

_COUNT = """
select count(*) from pgoutbox.resend_keys(
    jsonb_populate_record(null::pgoutbox.resend, $1::text::jsonb),
    9223372036854775807, 9223372036854775807)
"""

_COLUMNS = """
    relay, first_position, last_position, since, before, table_schemas, table_names,
    key_positions, key_seqs, events, asked_by
"""

_ASK = f"""
insert into pgoutbox.resend ({_COLUMNS})
select {_COLUMNS} from jsonb_populate_record(null::pgoutbox.resend, $1::text::jsonb)
returning number
"""  # noqa: S608 - our constants

_SAME = """
select r.number
from pgoutbox.resend r, jsonb_populate_record(null::pgoutbox.resend, $1::text::jsonb) w
where r.ended_at is null and r.sent = 0 and (
    r.relay, r.first_position, r.last_position, r.since, r.before, r.table_schemas,
    r.table_names, r.key_positions, r.key_seqs
) is not distinct from (
    w.relay, w.first_position, w.last_position, w.since, w.before, w.table_schemas,
    w.table_names, w.key_positions, w.key_seqs
)
order by r.number limit 1
"""
