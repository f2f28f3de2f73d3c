"""The leader's background tasks: drift, slot rotation, notification check, other relays."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Sequence

import asyncpg

from pgoutbox.errors import DatabaseError
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.names import Hours
from pgoutbox.outbox.progress import Progress
from pgoutbox.outbox.reader import Outbox
from pgoutbox.relay.outage import Outage
from pgoutbox.relay.wakeup import WakeUp

log = logging.getLogger("pgoutbox.relay")

_DRIFT_INTERVAL = 15.0
_ROTATE_INTERVAL = 30.0
_PROBE_INTERVAL = 30.0
_DEAF_INTERVAL = 5.0  # of the first probes while notifications don't arrive; each writes WAL
_DEAF_PROBES = 12
_DISCARD_INTERVAL = 60.0
_OTHERS_INTERVAL = 60.0
_STRANGERS_INTERVAL = 30.0
_HOLDERS_INTERVAL = 60.0
_ABANDONED_AFTER = 900.0
_CHORE_RETRY = 60.0

_ATTENTION = {
    "missing": "a captured table was dropped",
    "replaced": "a table that has taken the name of a captured one isn't captured",
}


class Chores:
    """The leader's background tasks, done between two passes when they are due.

    They refresh capture functions after drift, look for slots that ``empty`` is to empty, check
    that notifications arrive, name who else holds the sleep lock and who holds back positions, and
    say which other relays nobody runs, since the outbox keeps events until these have sent them.
    Slots are emptied at these ``hours`` of the day; None stands for any.
    ``found`` is called where a table exists and isn't captured that has a name in ``find``, or that
    of a captured table; None looks for neither.
    """

    def __init__(
        self,
        outbox: Outbox,
        wake_up: WakeUp,
        monitor: Monitor,
        retention: float,
        parked_retention: float,
        *,
        hours: Hours | None = None,
        find: Sequence[str] | None,
        found: Callable[[], None],
        empty: Callable[[Sequence[int]], None],
    ) -> None:
        self._find = find
        self._found = found
        self._empty = empty
        self._outbox = outbox
        self._upkeep = outbox.upkeep
        self._wake_up = wake_up
        self._monitor = monitor
        self._retention = retention
        self._parked_retention = parked_retention
        self._hours = hours
        self._outages = {
            self._mend_drift: Outage("drift check failed; retrying", "drift check succeeded"),
            self._rotate: Outage("slot check failed; retrying", "slot check succeeded"),
            self._discard_parked: Outage(
                "discarding parked events failed; retrying", "discarding parked events succeeded"
            ),
            self._probe: Outage(
                "notification check failed; retrying", "notification check succeeded"
            ),
            self._look_at_others: Outage(
                "look at other relays failed; retrying", "look at other relays succeeded"
            ),
            self._look_for_strangers: Outage(
                "look at the sleep lock failed; retrying", "look at the sleep lock succeeded"
            ),
            self._look_at_holders: Outage(
                "look at open transactions failed; retrying", "look at open transactions succeeded"
            ),
        }
        self._due = dict.fromkeys(self._outages, 0.0)
        self._problems: set[tuple[str, str]] = set()
        self._renamed: dict[str, str] = {}
        self._silent_probes = 0  # in succession
        self._abandoned: set[str] = set()
        self._suspects: set[int] = set()  # pids of who held the sleep lock when last looked
        self._strangers: set[int] = set()
        self._holders: set[int | None] = set()  # pids of those that it has warned of

    async def do(self, progress: Progress, pause: float = 0.0) -> None:
        """Do what is due; ``progress`` is the relay's, which then waits ``pause`` seconds."""
        now = time.monotonic()
        for chore, due in self._due.items():
            if now < due:
                continue
            try:
                self._due[chore] = now + await chore(progress)
            except (asyncpg.PostgresError, TimeoutError) as error:
                # It can wait, the events can't. A lost connection shows elsewhere, too.
                reason: Exception = error
                if isinstance(error, TimeoutError):
                    await self._outbox.check()
                    reason = DatabaseError("the query timed out")
                self._due[chore] = now + _CHORE_RETRY
                self._outages[chore].begin(reason)
            else:
                self._outages[chore].end()
            self._monitor.step(pause)

    async def _mend_drift(self, _: Progress) -> float:
        if self._find is not None and await self._upkeep.misses(self._find):
            self._found()
        problems = set()
        for table in await self._upkeep.mend_drift():
            asked, present, problem = table["asked_name"], table["present_name"], table["problem"]
            if present not in (asked, None):
                self._say_renamed(asked, present)
            if problem == "drift":
                log.info(
                    "capture function refreshed: the table has changed", extra={"table": present}
                )
                continue
            is_there = problem not in ("missing", "replaced")
            problems.add((present if is_there else asked, problem))
        for name, problem in problems - self._problems:
            log.warning(
                _ATTENTION.get(problem, "a captured table needs attention"),
                extra={"table": name, "problem": problem, "hint": "Run: pgoutbox status"},
            )
        self._problems = problems
        self._monitor.found_problems(len(problems))
        return _DRIFT_INTERVAL

    def _say_renamed(self, asked: str, present: str) -> None:
        if self._renamed.get(asked) != present:
            self._renamed[asked] = present
            log.info(
                "a captured table was renamed; it stays captured under its new name",
                extra={"table": present, "was": asked},
            )

    async def _rotate(self, progress: Progress) -> float:
        """Have slots emptied that were left alone for as long as the retention lasts."""
        asked_at = time.monotonic()
        moment, resting = await self._upkeep.resting_slots(self._retention)
        self._monitor.server_clock.told(moment.timestamp(), asked_at)
        slots = [slot for slot, last in resting if last is None or last <= progress.high]
        if self._hours is None or self._hours.has(moment):
            self._empty(slots)
        return min(_ROTATE_INTERVAL, max(1.0, self._retention / 4))

    async def _discard_parked(self, _: Progress) -> float:
        """Forget events that were parked for as long as they are to be kept."""
        if self._parked_retention:
            count = await self._outbox.discard_parked(self._parked_retention)
            if count:
                log.warning("parked events discarded", extra={"events": count})
        return _DISCARD_INTERVAL

    async def _probe(self, _: Progress) -> float:
        """Check that notifications arrive; where they don't, listening is begun anew."""
        silence = await self._wake_up.probe()
        reason = None if silence is None else silence.reason
        await self._outbox.note_polling(reason)
        if silence is not None and not self._silent_probes:
            log.warning(
                "notifications are not arriving; events wait for the next poll",
                extra={"error": reason, "hint": silence.hint},
            )
        elif silence is None and self._silent_probes:
            log.info("notifications are arriving again")
        self._silent_probes = 0 if silence is None else self._silent_probes + 1
        is_soon = 0 < self._silent_probes <= _DEAF_PROBES
        return _DEAF_INTERVAL if is_soon else _PROBE_INTERVAL

    async def _look_for_strangers(self, _: Progress) -> float:
        """Name who holds the sleep lock at two looks: a writer does so for a moment only."""
        holders = await self._upkeep.strangers()
        strangers = {pid for pid in holders if pid in self._suspects}
        for pid in strangers - self._strangers:
            log.warning(
                "somebody else holds the sleep lock; commits notify meanwhile",
                extra={
                    "pid": pid,
                    "application": holders[pid],
                    "hint": f"End it: select pg_terminate_backend({pid})",
                },
            )
        self._suspects, self._strangers = set(holders), strangers
        return _STRANGERS_INTERVAL

    async def _look_at_holders(self, progress: Progress) -> float:
        """Name who has held back positions for long; None stands for prepared transactions."""
        holders = {h.pid: h for h in await self._upkeep.long_holders()} if progress.gaps else {}
        for pid in holders.keys() - self._holders:
            log.warning(
                "a transaction holds its events back",
                extra={
                    "pid": pid or "prepared",
                    "application": holders[pid].application,
                    "open_s": round(holders[pid].open_s or 0),
                    "hint": "Commit it or roll it back; events of others aren't held up",
                },
            )
        self._holders = set(holders)
        return _HOLDERS_INTERVAL

    async def _look_at_others(self, _: Progress) -> float:
        rows = await self._upkeep.others()
        size = await self._upkeep.bytes_on_disk()
        self._monitor.found_outbox(size, {row["relay"]: row["oldest"] for row in rows})
        abandoned = set()
        for row in rows:
            waits = row["oldest"] is not None and row["idle_s"] >= _ABANDONED_AFTER
            if waits and not await self._upkeep.is_led(row["relay"]):
                abandoned.add(row["relay"])
        for relay in abandoned - self._abandoned:
            self._say_abandoned(relay, size)
        self._abandoned = abandoned
        return _OTHERS_INTERVAL

    def _say_abandoned(self, relay: str, size: int) -> None:
        log.warning(
            "nobody runs a relay, and the outbox keeps its events",
            extra={
                "relay": relay,
                "outbox_bytes": size,
                "hint": f"Run it, or forget it: pgoutbox uninstall --relay {shlex.quote(relay)}",
            },
        )
