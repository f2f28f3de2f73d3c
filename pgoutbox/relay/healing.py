"""What the stream lost: noticed, and sent again as far as the outbox still has it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from pgoutbox.messages.event import LastStored
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.nats.connect import Connected
from pgoutbox.nats.wire import message_id
from pgoutbox.outbox.marks import Mark
from pgoutbox.outbox.progress import Key, Progress
from pgoutbox.outbox.reader import Outbox

log = logging.getLogger("pgoutbox.relay")

_LOOKED_AT = 200  # messages at the end of the stream, for the last one of ours


class Healing:
    """Goes back to where the stream has everything, after it has lost messages.

    JetStream confirms a message before it is on the disk, and streams are restored, rolled back,
    and deleted. So the relay keeps marks (see :mod:`pgoutbox.outbox.marks`), and goes on
    from the newest one that the stream still has.
    """

    def __init__(self, outbox: Outbox, monitor: Monitor) -> None:
        self._outbox = outbox
        self._monitor = monitor
        self._until: Progress | None = None  # events that it covers are sent again
        self._stream = ""
        self._events = 0  # sent again

    async def begin(self) -> None:
        """Take up what an earlier leader hadn't finished."""
        loss = await self._outbox.marks.open_loss()
        if loss is not None:
            self._stream, self._until = loss

    async def check(self, publisher: Connected, progress: Progress) -> Progress:
        """Return where to go on: at ``progress``, or before that if the stream has lost messages.

        Raises:
            Interrupted: the stream doesn't say what it has.
            LeadershipLost: another relay of the same name has taken over.
        """
        last = self._outbox.last_stored
        if last is not None and not await publisher.confirms(last):
            progress = await self._go_back(publisher, progress, last)
        else:
            await self._outbox.keep_mark()
        publisher.resume(self._outbox.last_stored)
        self._outbox.record_with(lambda: publisher.last_stored)
        return progress

    async def _go_back(
        self, publisher: Connected, progress: Progress, last: LastStored
    ) -> Progress:
        stream = str(publisher.description["stream"])
        marks = await self._outbox.marks.newest_first() or [Mark(progress, None)]
        mark = await _newest_that_stands(publisher, marks)
        if mark.last is None and stream != last.stream:
            log.info("publishing into another stream", extra={"stream": stream, "was": last.stream})
            await self._outbox.forget_stream()
            return progress
        found = await self._last_of_ours(publisher, mark)
        if found is not None:
            mark = Mark(replace(mark.progress, partial=found[0]), found[1])
        self._stream, self._until, self._events = stream, progress, 0
        log.info(
            "the stream lacks messages that it had confirmed; sending them again",
            extra={
                "stream": stream,
                "confirmed_seq": last.sequence,
                "from_seq": mark.last.sequence if mark.last else 0,
                "from_position": mark.progress.high + 1,
            },
        )
        await self._outbox.go_back(mark, stream, progress)
        return mark.progress

    async def _last_of_ours(
        self, publisher: Connected, mark: Mark
    ) -> tuple[Key, LastStored] | None:
        """Return the last event behind ``mark`` that the stream has; None where it has none.

        Its transaction is to be finished first: what became visible since stands before it in the
        outbox, and would get into the middle of it.
        """
        after = mark.last.sequence if mark.last else 0
        messages = await publisher.latest(after, _LOOKED_AT)
        keys = await self._outbox.marks.keys_of(
            {_event_id(message): payload for message, payload in messages}
        )
        for message, _ in messages:
            key = keys.get(_event_id(message))
            if key is None or mark.progress.covers(key):
                continue
            ours = await self._outbox.message_at(key)
            if ours is not None and message_id(ours) == message.id:
                return key, message
        return None

    def landed(self, keys: Sequence[Key]) -> None:
        """Count the events at ``keys``, which are stored now, if they were sent before."""
        if self._until is not None:
            again = sum(map(self._until.covers, keys))
            self._events += again
            self._monitor.resent += again

    async def passed(self, progress: Progress) -> None:
        """Say how much was sent again, once that is over."""
        if self._until is None or progress.towards(self._until):
            return
        self._until = None
        await self._outbox.marks.end_loss(self._events)
        log.warning(
            "the stream had lost messages; they were sent again",
            extra={"stream": self._stream, "events": self._events},
        )


async def _newest_that_stands(publisher: Connected, marks: Sequence[Mark]) -> Mark:
    """Return the first of ``marks`` that the stream has; the last one, with nothing, if none."""
    for mark in marks:
        if mark.last is None or await publisher.has(mark.last):
            return mark
    return Mark(marks[-1].progress, None)


def _event_id(message: LastStored) -> str:
    return message.id.rpartition(".")[0]
