"""The status as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from pgoutbox.database.status.model import (
    LossStatus,
    PauseStatus,
    Reading,
    RelayStatus,
    ResendStatus,
    SchemaStatus,
    SlotStatus,
    Status,
    TableStatus,
)
from pgoutbox.database.status.problems import age, problems, run_or_forget, table_state
from pgoutbox.database.tables import printable


def to_json(status: Status) -> str:
    """Return it for machines."""
    values = asdict(status) | {"problems": problems(status)}
    return json.dumps(values, indent=2, ensure_ascii=False)


def to_text(status: Status) -> str:
    """Return it for people."""
    lines = [str(status.database)] if status.database else []
    lines += schema_lines(status.schema)
    if status.schema.is_missing:
        return "\n".join(lines)
    lines += ["", *_relay_lines(status.relays), "", *_table_lines(status.tables)]
    if status.patterns:
        lines.append(f"patterns {', '.join(map(printable, status.patterns))}")
    if status.event_trigger == "enabled":
        lines.append("tables that are made again are captured at once, by an event trigger")
    lines += [resend_line(resend) for resend in status.resends]
    if status.snapshots:
        lines += ["", *_snapshot_lines(status.snapshots)]
    lines += ["", _outbox_line(status.outbox_bytes, status.slots)]
    lines += [f"! {problem}" for problem in problems(status) if not status.schema.problem]
    return "\n".join(lines)


def schema_lines(status: SchemaStatus) -> list[str]:
    """Return the line about the schema's version."""
    line = f"schema   {status.installed or 'none'}"
    if status.problem:
        line += f": {status.problem} ({status.pgoutbox})"
        line += f"; run: {status.remedy}" if status.remedy else ""
    return [line]


def _relay_lines(relays: Sequence[RelayStatus]) -> list[str]:
    header = ("relay", "backlog", "oldest unsent", "gaps", "parked", "leader")
    lines = columns([header, *(_relay_row(relay, relays) for relay in relays)])
    lines += [f"{one.relay} publishes {one.share}" for one in relays if one.share and one.leader]
    lines += [_pause_line(relay.relay, relay.pause) for relay in relays if relay.pause]
    lines += [_loss_line(relay.relay, relay.loss) for relay in relays if relay.loss]
    return lines


def _loss_line(relay: str, loss: LossStatus) -> str:
    what = "is sending them again"
    if loss.events is not None:
        what = f"has sent {loss.events:,} {'event' if loss.events == 1 else 'events'} again"
    stream, ago = printable(loss.stream), age(loss.noticed_s)
    return f"{printable(relay)} found {ago} ago that stream {stream} had lost messages, and {what}"


def _pause_line(relay: str, pause: PauseStatus) -> str:
    why = f": {printable(pause.reason)}" if pause.reason else ""
    name = printable(relay)
    return f"{name} is paused for {age(pause.paused_s)}, by {printable(pause.by)}{why}"


def resend_line(resend: ResendStatus) -> str:
    """Return the line about events that are sent again."""
    relay, by, ago = printable(resend.relay), printable(resend.by), age(resend.asked_s)
    done = f"{resend.sent:,} of {resend.events:,} events"
    return f"resend {resend.number} by relay {relay}: {done}; asked for {ago} ago, by {by}"


def _relay_row(relay: RelayStatus, relays: Sequence[RelayStatus]) -> tuple[str, ...]:
    oldest = "-" if relay.oldest_unsent_s is None else age(relay.oldest_unsent_s)
    leader = f"nobody; {run_or_forget(relay, relays)}"
    if relay.leader:
        doing = ", idle" if relay.is_idle else ""
        method = f"; {relay.leader.method}" if relay.leader.method else ""
        leader = f"pid {relay.leader.pid} for {age(relay.leader.leading_s)}{doing}{method}"
    return (
        relay.relay,
        f"{relay.backlog:,}",
        oldest,
        f"{relay.gaps:,}",
        f"{relay.parked:,}",
        leader,
    )


def _table_lines(tables: Sequence[TableStatus]) -> list[str]:
    if not tables:
        return ["tables   none is captured; run: pgoutbox install --table NAME"]
    rows = [
        (
            printable(table.table),
            ",".join(action.lower() for action in table.actions),
            table.old_values,
            "; ".join(filter(None, (table_state(table), table.choice))),
        )
        for table in tables
    ]
    return columns([("table", "actions", "old values", "state"), *rows])


def _snapshot_lines(snapshots: Sequence[Reading]) -> list[str]:
    rows = [
        (
            one.id[:8],
            printable(one.table),
            printable(one.relay),
            one.state,
            f"{one.rows:,}",
            "-" if one.estimated_rows is None else f"{one.estimated_rows:,}",
        )
        for one in snapshots
    ]
    return columns([("snapshot", "table", "relay", "state", "rows", "of about"), *rows])


def _outbox_line(size: int, slots: Sequence[SlotStatus]) -> str:
    sizes = (f"{size_of(slot.bytes)}{'*' if slot.is_written else ''}" for slot in slots)
    return f"outbox   {size_of(size)} on disk; slots: {'  '.join(sizes)}   (* is being written)"


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a line for each row, in columns that are as wide as their widest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def size_of(count: float) -> str:
    """Return a size in bytes for people, such as "3 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
