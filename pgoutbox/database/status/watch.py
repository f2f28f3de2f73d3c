"""The status as a screen that is drawn again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pgoutbox.database.snapshots import ENDED, SnapshotStatus
from pgoutbox.database.status.model import RelayStatus, Status
from pgoutbox.database.status.problems import age, problems
from pgoutbox.database.status.text import columns, schema_lines, size_of
from pgoutbox.database.tables import printable


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment; ``at`` is of the monotonic clock, in seconds."""

    at: float
    status: Status
    last_position: int = 0  # that was drawn
    snapshots: Sequence[SnapshotStatus] = field(default_factory=list)


def screen(look: Look, before: Look | None, clock: str, *, width: int, height: int) -> list[str]:
    """Return the lines of a screen; rates are those since the look ``before``.

    What doesn't fit into ``width`` is cut, and of what doesn't fit into ``height`` the last line
    tells.
    """
    status = look.status
    lines = [_spread(str(status.database or ""), clock, width), *schema_lines(status.schema)]
    if not status.schema.is_missing:
        lines += [_summary(look, before), "", *_relays(look, before, width), ""]
        lines += [_tables(status), *_snapshots(look.snapshots), *_slots(status)]
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


def _summary(look: Look, before: Look | None) -> str:
    written = _rate(look, before, look.last_position, before.last_position if before else 0)
    backlog = max((relay.backlog for relay in look.status.relays), default=0)
    size = size_of(look.status.outbox_bytes)
    return f"written {written}   unsent {backlog:,}   outbox {size} on disk"


def _rate(look: Look, before: Look | None, now: int, then: int) -> str:
    """Return transactions a second, as text."""
    if before is None or look.at <= before.at:
        return "-"
    return f"{max(0, now - then) / (look.at - before.at):,.0f} tx/s"


def _relays(look: Look, before: Look | None, width: int) -> list[str]:
    then = {relay.relay: relay.high for relay in before.status.relays} if before else {}
    header = ("relay", "sent", "unsent", "oldest", "gaps", "parked", "leader")
    rows = [header]
    for relay in look.status.relays:
        high = then.get(relay.relay, relay.high)
        oldest = "-" if relay.oldest_unsent_s is None else age(relay.oldest_unsent_s)
        rows.append((
            _cut(printable(relay.relay), 20),
            _rate(look, before, relay.high, high),
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
