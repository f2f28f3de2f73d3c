"""Parking: setting events aside that can't be published, and publishing them after all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal, Protocol

from pgoutbox.errors import LimitTooLow, PgoutboxError, Refused, TooLarge
from pgoutbox.messages.event import Message
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.nats.connect import Publisher
from pgoutbox.outbox.batch import Withheld
from pgoutbox.outbox.parked import Retry
from pgoutbox.outbox.progress import Key

log = logging.getLogger("pgoutbox.relay")

OnOversize = Literal["auto", "park", "stop"]

_INTERVAL = 60.0  # seconds between two lines about one kind of reason


class OutboxLike(Protocol):
    """What parking needs of :class:`pgoutbox.outbox.reader.Outbox`."""

    async def park(self, key: Key, message: Message, reason: str) -> str:
        """Set an event aside as a message; return the reason, perhaps with a hint."""

    async def park_withheld(self, event: Withheld, reason: str) -> str:
        """Set an event aside that stays in the outbox; return the reason, perhaps with a hint."""

    async def note_largest(self, size: int) -> None:
        """Note the size of the largest message that was stored, in bytes."""

    async def next_retry(self) -> Retry | None:
        """Return the first parked event that is to be published after all."""

    async def unpark(self, event_id: str) -> None:
        """Forget a parked event, which is published."""

    async def park_again(self, event_id: str, reason: str) -> None:
        """Leave an event parked, for what is the reason now."""


@dataclass(slots=True)
class _Kind:
    due: float  # of the clock, the next line
    unsaid: int = 0  # events


class ParkingLog:
    """Logs the first event that is parked, and how many follow it: a line a minute for each kind.

    ``kind`` is what many events have in common, such as the limit that they exceed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def say(self, kind: str, **details: object) -> None:
        """Log an event that is parked, or count it."""
        found = self._kinds.get(kind)
        if found is not None and self._clock() < found.due:
            found.unsaid += 1
            return
        self.say_rest()
        log.error("event parked: it cannot be published", extra=details)
        self._kinds[kind] = _Kind(self._clock() + _INTERVAL)

    def say_rest(self) -> None:
        """Log how many more there were, where the minute is over."""
        now = self._clock()
        for kind, found in list(self._kinds.items()):
            if now < found.due:
                continue
            if not found.unsaid:
                del self._kinds[kind]
                continue
            log.error(
                "more events parked: they cannot be published",
                extra={
                    "events": found.unsaid,
                    "reason": kind,
                    "hint": "Run: pgoutbox parked list",
                },
            )
            self._kinds[kind] = _Kind(now + _INTERVAL)


_payload = itemgetter(Message._fields.index("payload"))


class Parking:
    """Sets aside what can't be published, unless the limit that it exceeds is the mistake.

    That is what ``on_oversize`` decides. ``largest`` is the size in bytes of the largest message
    that the stream is known to have stored; 0 if that is unknown.
    """

    def __init__(
        self,
        outbox: OutboxLike,
        publisher: Publisher,
        monitor: Monitor,
        *,
        on_oversize: OnOversize = "auto",
        largest: int = 0,
        parking_log: ParkingLog | None = None,
    ) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._monitor = monitor
        self._on_oversize = on_oversize
        self._largest = self._noted_largest = largest
        self._log = parking_log or ParkingLog()

    def stored(self, messages: Sequence[Message]) -> None:
        """Take notice of messages that are stored."""
        if messages:
            self._largest = max(self._largest, max(map(len, map(_payload, messages))))

    async def record(self) -> None:
        """Note in the database what must outlive this process."""
        if self._largest > self._noted_largest:
            await self._outbox.note_largest(self._largest)
            self._noted_largest = self._largest

    async def objection(self, size: int, refusal: Refused) -> PgoutboxError | None:
        """Return why an event of ``size`` bytes isn't to be parked; None where it is to be.

        A limit that refuses what the stream has taken before, or the very first message, is
        somebody's mistake, and parking would set aside nearly everything.
        """
        if self._on_oversize == "stop":
            return refusal
        if self._on_oversize == "park" or not isinstance(refusal, TooLarge):
            return None
        if 0 < self._largest >= size:
            why = f"one of {self._largest} bytes was published before"
        elif await self._publisher.is_unused():
            why = "the stream has stored nothing yet"
        else:
            return None
        return LimitTooLow(
            f"{refusal}; {why}, so the limit is taken for a mistake",
            hint=f"Raise {refusal.limit}; or have such events set aside, with --on-oversize park.",
        )

    async def park(self, key: Key, message: Message, refusal: Refused) -> None:
        """Set aside an event whose message was refused."""
        reason = await self._outbox.park(key, message, str(refusal))
        self._monitor.set_aside()
        self._log.say(
            _kind(refusal, "NATS refuses them"),
            id=message.id,
            subject=message.subject,
            reason=reason,
        )

    async def park_withheld(self, events: Sequence[tuple[Withheld, Refused]]) -> None:
        """Set aside events that have no message."""
        for event, refusal in events:
            reason = await self._outbox.park_withheld(event, str(refusal))
            self._monitor.set_aside()
            self._log.say(
                _kind(refusal, "PostgreSQL can't read them"),
                id=event.id,
                position=event.key.position,
                reason=reason,
            )

    async def publish_again(self) -> None:
        """Publish what somebody wants published after all; nothing else may be in flight.

        Raises:
            Interrupted: publishing failed; what is left is still wanted.
        """
        while (retry := await self._outbox.next_retry()) is not None:
            if isinstance(retry.message, str):
                await self._outbox.park_again(retry.id, retry.message)
                continue
            try:
                await self._publisher.publish([retry.message])
            except Refused as refusal:
                await self._outbox.park_again(retry.id, str(refusal))
                continue
            await self._outbox.unpark(retry.id)
            self.stored([retry.message])
            self._monitor.stored([retry.message], None)
            details = {"id": retry.id, "subject": retry.message.subject}
            log.info("parked event published", extra=details)


def _kind(refusal: Refused, otherwise: str) -> str:
    return f"they exceed {refusal.limit}" if isinstance(refusal, TooLarge) else otherwise
