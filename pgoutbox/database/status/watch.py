"""The status as a screen that is drawn again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg

from pgoutbox.database import snapshots
from pgoutbox.database.sessions import Guest
from pgoutbox.database.snapshots import ENDED, SnapshotStatus
from pgoutbox.database.status.gather import gather
from pgoutbox.database.status.model import RelayStatus, Status
from pgoutbox.database.status.problems import age, problems
from pgoutbox.database.status.text import columns, resend_line, schema_lines, size_of
from pgoutbox.database.tables import printable

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


@dataclass(frozen=True, slots=True)
class Flow:
    """How many events came and went since the look before, and what the next one counts from."""

    places: Mapping[str, Any]  # of the last transaction, and of each relay's progress
    seconds: float | None = None  # since then; None for the first look
    written: int = 0
    sent: Mapping[str, int] = field(default_factory=dict)  # by relay


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment; ``at`` is of the monotonic clock, in seconds."""

    at: float
    status: Status
    flow: Flow | None = None
    snapshots: Sequence[SnapshotStatus] = field(default_factory=list)


async def look(conn: Guest, before: Look | None) -> Look:
    """Look at everything once, and count what has come and gone since ``before``."""
    at = time.monotonic()
    found = await gather(conn, conn.whereabouts)
    if found.schema.problem:
        return Look(at, found)
    return Look(at, found, await _flow(conn, at, before), await snapshots.gather(conn))


async def _flow(conn: Connection, at: float, before: Look | None) -> Flow:
    row = await conn.fetchrow(_PLACES)
    assert row is not None  # noqa: S101 - one row
    places = {"last": row["last"], "relays": json.loads(row["relays"])}
    if before is None or before.flow is None:
        return Flow(places)
    counts = await conn.fetch(_COUNTS, json.dumps(_stretches(before.flow.places, places)))
    sent = {row["relay"]: row["events"] for row in counts}
    return Flow(places, at - before.at, sent.pop("", 0), sent)


def _stretches(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return from where to where events are counted: of the writers, without a name, and relays."""
    written = {"relay": "", "after": {"high": then["last"]}, "upto": {"high": now["last"]}}
    return [written] + [
        {"relay": relay, "after": then["relays"][relay], "upto": place}
        for relay, place in now["relays"].items()
        if relay in then["relays"]
    ]


_PLACES = """
select
    (select case when s.is_called then s.last_value else 0 end from pgoutbox.position_seq s)
        as last,
    coalesce((
        select pg_catalog.jsonb_object_agg(p.relay, pg_catalog.jsonb_build_object(
            'high', p.high, 'partial_position', p.partial_position, 'partial_seq', p.partial_seq))
        from pgoutbox.progress p
    ), '{}')::text as relays
"""

# Up to `high`, and of the transaction at the partial position up to the partial event.
_COUNTS = """
select s.relay, (
    select pg_catalog.count(*)
    from pgoutbox.transaction t
    cross join lateral (
        select from pgoutbox.event_in_slot e
        where e.slot = t.slot and e.xid = t.xid
          and e.seq >= case when t.position = a.partial_position
              then a.partial_seq + 1 else t.first_seq end
          and e.seq <= case when t.position > b.high then b.partial_seq else t.last_seq end
    ) e
    where t.position > a.high and t.position <= greatest(b.high, b.partial_position)
      and (t.position <= b.high or t.position = b.partial_position)
) as events
from pg_catalog.jsonb_to_recordset($1::text::jsonb) s (relay text, after jsonb, upto jsonb)
cross join lateral pg_catalog.jsonb_to_record(s.after)
    a (high bigint, partial_position bigint, partial_seq bigint)
cross join lateral pg_catalog.jsonb_to_record(s.upto)
    b (high bigint, partial_position bigint, partial_seq bigint)
"""


def screen(look: Look, clock: str, *, width: int, height: int) -> list[str]:
    """Return the lines of a screen.

    What doesn't fit into ``width`` is cut, and of what doesn't fit into ``height`` the last line
    tells.
    """
    status = look.status
    lines = [_spread(str(status.database or ""), clock, width), *schema_lines(status.schema)]
    if not status.schema.is_missing:
        lines += [_summary(look), "", *_relays(look, width), ""]
        lines += [_tables(status), *_snapshots(look.snapshots)]
        lines += [*(resend_line(resend) for resend in status.resends), *_slots(status)]
        lines += [f"! {problem}" for problem in problems(status)]
    if len(lines) > height:
        left = len(lines) - height + 1
        lines = [*lines[: height - 1], f"... {left} more lines; see pgoutbox status"]
    return [_cut(line, width) for line in lines]


def _spread(left: str, right: str, width: int) -> str:
    room = width - len(right) - 1
    return f"{_cut(left, room).ljust(room)} {right}"


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _summary(look: Look) -> str:
    written = _rate(look.flow, look.flow.written if look.flow else 0)
    backlog = max((relay.backlog for relay in look.status.relays), default=0)
    size = size_of(look.status.outbox_bytes)
    return f"written {written}   unsent {backlog:,}   outbox {size} on disk"


def _rate(flow: Flow | None, events: int) -> str:
    """Return events a second, as text."""
    return f"{events / flow.seconds:,.0f}/s" if flow and flow.seconds else "-"


def _relays(look: Look, width: int) -> list[str]:
    header = ("relay", "sent", "unsent", "oldest", "gaps", "parked", "leader")
    rows = [header]
    for relay in look.status.relays:
        oldest = "-" if relay.oldest_unsent_s is None else age(relay.oldest_unsent_s)
        rows.append((
            _cut(printable(relay.relay), 20),
            _rate(look.flow, look.flow.sent.get(relay.relay, 0) if look.flow else 0),
            f"{relay.backlog:,}",
            oldest,
            f"{relay.gaps:,}",
            f"{relay.parked:,}",
            _leader(relay, is_wide=width >= 120),
        ))  # fmt: skip
    return columns(rows)


def _leader(relay: RelayStatus, *, is_wide: bool) -> str:
    if relay.leader is None:
        return "nobody"
    doing = "paused" if relay.pause else "failing" if relay.error else ""
    doing = doing or ("idle" if relay.is_idle else "publishing")
    method = f"; {relay.leader.method}" if is_wide and relay.leader.method else ""
    return f"pid {relay.leader.pid}, {doing}{method}"


def _tables(status: Status) -> str:
    ill = sum(table.problem not in (None, "locked", "drift") for table in status.tables)
    captured = f"tables   {len(status.tables)} captured"
    return f"{captured}, {ill} of them with a problem" if ill else captured


def _snapshots(snapshots: Sequence[SnapshotStatus]) -> list[str]:
    return [
        f"snapshot {printable(one.table)} by {printable(one.relay)}: {one.state},"
        f" {one.rows:,} rows{_of_about(one.estimated_rows)}"
        for one in snapshots
        if one.state not in ENDED
    ]


def _of_about(rows: int | None) -> str:
    return "" if rows is None else f" of about {rows:,}"


def _slots(status: Status) -> list[str]:
    sizes = (f"{size_of(slot.bytes)}{'*' if slot.is_written else ''}" for slot in status.slots)
    return [f"slots    {'  '.join(sizes)}   (* is being written)"]
