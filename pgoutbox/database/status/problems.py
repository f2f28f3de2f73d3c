"""What needs attention, in sentences."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from pgoutbox.database.status.model import (
    Holder,
    Reading,
    RelayStatus,
    Status,
    Stranger,
    TableStatus,
    UncapturedTable,
)
from pgoutbox.database.tables import printable

_PATIENCE = 300.0  # seconds that an event may be unsent, or a transaction hold positions

_PROBLEMS = {
    None: "ok",
    "locked": "locked",
    "drift": "columns changed",
    "trigger": "trigger missing or disabled",
    "not_always": "trigger no longer ENABLE ALWAYS",
    "missing": "table is gone",
    "replaced": "not captured: it has taken the name of a captured table",
}


_EVENT_TRIGGER_PROBLEMS = (
    "the event trigger is disabled, so tables that are made again aren't captured at once; run:"
    " pgoutbox install --event-trigger",
)


def problems(status: Status) -> tuple[str, ...]:
    """Return what needs attention, a sentence each."""
    if status.schema.problem:
        run = f"; run: {status.schema.remedy}" if status.schema.remedy else ""
        return (f"the schema is {status.schema.problem}{run}",)
    return (
        *(sentence for table in status.tables for sentence in _table_problems(table)),
        *(_uncaptured_problem(table) for table in status.uncaptured),
        *(said for one in status.relays for said in _relay_problems(one, status.relays)),
        *(_stranger_problem(stranger) for stranger in status.strangers),
        *(_EVENT_TRIGGER_PROBLEMS if status.event_trigger == "disabled" else ()),
        *(_snapshot_problem(one) for one in status.snapshots if one.state == "failed"),
        *(_holder_problem(holder) for holder in status.holders if is_long(holder)),
    )


def _uncaptured_problem(table: UncapturedTable) -> str:
    name, pattern = printable(table.table), printable(table.pattern)
    return f"{name} matches {pattern}, and isn't captured; run: pgoutbox install"


def _snapshot_problem(snapshot: Reading) -> str:
    return (
        f"the snapshot of {printable(snapshot.table)} by relay {printable(snapshot.relay)} has"
        " failed; `pgoutbox snapshot list` says why; then run:"
        f" pgoutbox snapshot resume {snapshot.id[:8]}, or cancel"
    )


def _relay_problems(relay: RelayStatus, relays: Sequence[RelayStatus]) -> Iterator[str]:
    name = printable(relay.relay)
    if relay.error:
        ago = age(relay.error_s or 0)
        yield f"relay {name} can't publish (reported {ago} ago): {relay.error}"
    if relay.polling:
        yield f"relay {name} only polls, since notifications don't reach it: {relay.polling}"
    if relay.leader is None and relay.backlog:
        what = run_or_forget(relay, relays)
        yield f"nobody publishes the unsent events of relay {name}; {what}"
    elif relay.leader and not relay.error and (relay.oldest_unsent_s or 0) > _PATIENCE:
        unsent = age(relay.oldest_unsent_s or 0)
        if relay.pause:
            resume = f"run: pgoutbox resume {printable(shlex.quote(relay.relay))}"
            yield f"relay {name} is paused, and its oldest unsent event is {unsent} old; {resume}"
        else:
            yield f"relay {name} is behind: its oldest unsent event is {unsent} old"
    if relay.parked:
        events, are = ("events", "are") if relay.parked > 1 else ("event", "is")
        yield f"{relay.parked:,} {events} of relay {name} {are} parked; run: pgoutbox parked list"


def _table_problems(table: TableStatus) -> Iterator[str]:
    if table.problem not in (None, "locked", "drift"):  # a relay mends drift by itself
        yield f"{printable(table.table)}: {table_state(table)}"


def _stranger_problem(stranger: Stranger) -> str:
    who = session_name(stranger.pid, stranger.application)
    return f"{who} holds the sleep lock, so that commits notify"


def is_long(holder: Holder) -> bool:
    """Tell whether a transaction has held its positions back for too long."""
    return (holder.open_s or 0) > _PATIENCE


def _holder_problem(holder: Holder) -> str:
    who = session_name(holder.pid, holder.application)
    return f"{who} has held back its events for {age(holder.open_s or 0)}; end that transaction"


def run_or_forget(relay: RelayStatus, relays: Sequence[RelayStatus]) -> str:
    """Return what to do about a relay without a leader, one of ``relays``."""
    run = f"run: {' '.join(['pgoutbox relay', *_flags(relay)])}"
    if len(relays) == 1:  # it is rather one that wasn't started yet
        return run
    # The outbox keeps everything until all of them have sent it.
    name = printable(shlex.quote(relay.relay))
    return f"{run}; or forget it: pgoutbox uninstall --relay {name}"


def _flags(relay: RelayStatus) -> Iterator[str]:
    """Yield what makes `pgoutbox relay` this relay."""
    shard = re.search(r"--shard (\d+)/(\d+)$", relay.share)
    name = relay.relay.removesuffix("-{}-of-{}".format(*shard.groups())) if shard else relay.relay
    if name != "default":
        yield f"--name {shlex.quote(name)}"
    if relay.share:
        yield relay.share


def table_state(table: TableStatus) -> str:
    """Return how a table stands, and the command that mends it."""
    said = _PROBLEMS.get(table.problem) or str(table.problem)
    if table.locked_by:
        said += f" by {table.locked_by}"
    if table.other_name:
        other = printable(table.other_name)
        said += (
            f", now {other}"
            if table.problem == "replaced"
            else f"; renamed since it was captured, was {other}"
        )
    return f"{said}; run: {table.remedy}" if table.remedy else said


def age(seconds: float) -> str:
    """Return a time span for people, such as "5 min"."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.1f} s"


def session_name(pid: int | None, application: str | None) -> str:
    """Return how people find a session, or a prepared transaction, which has none."""
    return f"pid {pid} ({application or 'no name'})" if pid else "a prepared transaction"
