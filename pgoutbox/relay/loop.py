"""The relay: read the next batch, publish it, move the progress; again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from pgoutbox.backoff import Backoff
from pgoutbox.errors import Interrupted, Refused
from pgoutbox.messages.event import Message
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.nats.connect import Publisher
from pgoutbox.outbox.progress import Key, Progress
from pgoutbox.outbox.reader import Batch

log = logging.getLogger("pgoutbox.relay")

_FEW = 4  # events in a batch; with more the relay stays awake, and writers are spared the NOTIFY
_PAUSE = 0.002  # seconds; a look costs about the same for a hundred events as for one
_FIRST_LOOK_AGAIN = 0.002  # seconds; a commit that is under way takes about as long


class OutboxLike(Protocol):
    """What the relay needs of :class:`pgoutbox.outbox.reader.Outbox`."""

    async def next_batch(self, before: Progress) -> Batch:
        """Return what comes after ``before``."""

    async def begin(self, batch: Batch) -> None:
        """Make sure that ``batch`` can be published."""

    async def advance(self, progress: Progress, following: Batch | None = None) -> None:
        """Move the progress, and begin the batch that follows."""

    def fall_back(self) -> None:
        """Return the rest of a failed batch first from now on."""

    async def park(self, key: Key, message: Message, reason: str) -> None:
        """Set an event aside."""


class WakeUpLike(Protocol):
    """What the relay needs of :class:`pgoutbox.relay.wakeup.WakeUp`."""

    @property
    def is_asleep(self) -> bool:
        """Whether writers notify."""

    async def fall_asleep(self) -> bool:
        """Make writers notify; False while one is in the middle of a commit."""

    async def get_up(self) -> None:
        """Let writers commit without notifying."""

    async def wait(self, seconds: float) -> bool:
        """Wait for a hint, at most ``seconds``."""

    def interrupt(self) -> None:
        """End a wait now."""

    async def verify(self) -> None:
        """Raise unless this relay still leads."""


class Relay:
    """Moves events from the outbox to the stream: in commit order, each at least once.

    The invariant: progress moves only over events that the stream has confirmed, and events are
    published in one order, whatever is lost, refused or killed on the way. One batch is on its
    way while the next one is read.

    ``chores`` is called after every pass, when nothing else uses the outbox's connection.
    """

    def __init__(
        self,
        outbox: OutboxLike,
        publisher: Publisher,
        wake_up: WakeUpLike,
        *,
        progress: Progress,
        poll_interval: float,
        on_oversize: Literal["park", "stop"],
        chores: Callable[[Progress], Awaitable[None]],
        monitor: Monitor,
    ) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._wake_up = wake_up
        self._poll_interval = poll_interval
        self._on_oversize = on_oversize
        self._chores = chores
        self._monitor = monitor
        self._is_stopping = False
        self._read = 0  # events, those included that it passes over
        self.progress = progress
        self.sent = 0  # events since this relay started

    def stop(self) -> None:
        """Ask :meth:`run` and :meth:`drain` to end once what is on its way is confirmed."""
        self._is_stopping = True
        self._wake_up.interrupt()

    async def run(self) -> None:
        """Publish what is committed, as it is committed, until :meth:`stop`.

        Raises:
            Interrupted: publishing failed; ``progress`` covers what was confirmed before.
            DatabaseError: the listening connection was lost.

        """
        backoff = Backoff(_FIRST_LOOK_AGAIN, self._poll_interval)
        while not self._is_stopping:
            self._publisher.check()
            read = self._read
            await self.drain()
            if self._read > read:
                backoff.reset()
            if self._wake_up.is_asleep:
                # The look just now came after writers had begun to notify.
                await self._wake_up.wait(self._poll_interval)
            elif not await self._wake_up.fall_asleep():
                await self._wake_up.wait(backoff.next())

    async def drain(self) -> None:
        """Publish until no unsent event is left, or :meth:`stop`.

        Raises:
            Interrupted: see :meth:`run`.

        """
        batch = await self._outbox.next_batch(self.progress)
        self.progress = batch.before
        self._monitor.found(batch.oldest)
        if batch and not self._is_stopping:
            await self._outbox.begin(batch)
        while batch and not self._is_stopping:
            batch = await self._drain_once(batch)
            await self._chores(self.progress)
        if not batch:
            await self._settle(batch)
            await self._chores(self.progress)

    async def _settle(self, batch: Batch) -> None:
        """Note that a transaction sent up to the end of a batch turned out to be complete."""
        self.progress = batch.after
        await self._outbox.advance(self.progress)

    async def _drain_once(self, batch: Batch) -> Batch:
        """Publish ``batch``, then move the progress past it; return the batch that follows.

        Stops at the first event that the stream doesn't confirm, so that none overtakes it.
        """
        await self._wake_up.verify()
        began = time.monotonic()
        publishing = asyncio.create_task(self._publisher.publish(batch.messages))
        try:
            if self._stays_asleep(batch):
                following = batch.nothing_follows()
            else:
                await self._wake_up.get_up()
                if batch.after.partial is None:  # that was all, so let some more come together
                    await asyncio.sleep(_PAUSE)
                following = await self._outbox.next_batch(batch.after)
        except BaseException:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            raise
        await self._confirm(batch, publishing)
        await self._outbox.advance(following.before, following if following else None)
        self.progress = following.before
        self.sent += len(batch)
        self._read += batch.read
        self._monitor.found(following.oldest)
        log.debug(
            "batch published",
            extra={
                "events": len(batch),
                "seconds": round(time.monotonic() - began, 4),
                "lag_s": round(time.time() - batch.oldest, 4) if batch.oldest else None,
            },
        )
        return following

    def _stays_asleep(self, batch: Batch) -> bool:
        """Tell whether to leave it to the writers to say that more has come.

        They have notified since before ``batch`` was read, so nothing is missed. It costs a few
        writers a NOTIFY, and spares the relay four of its six questions to the database.
        """
        is_settled = not batch.after.gaps and batch.after.partial is None
        return self._wake_up.is_asleep and is_settled and batch.read <= _FEW

    async def _confirm(self, batch: Batch, publishing: Awaitable[None]) -> None:
        """Wait until ``batch`` is stored but for events that are parked."""
        done = 0
        while True:
            try:
                await publishing
                return self._monitor.stored(batch.messages[done:], batch.oldest)
            except Refused as refusal:
                self._monitor.stored(batch.messages[done : done + refusal.confirmed], batch.oldest)
                done += refusal.confirmed
                if self._on_oversize == "stop":
                    await self._fall_back(batch, done)
                    raise
                await self._park(batch, done, str(refusal))
                done += 1
            except Interrupted as interruption:
                confirmed = done + interruption.confirmed
                self._monitor.stored(batch.messages[done:confirmed], batch.oldest)
                await self._fall_back(batch, confirmed)
                raise
            publishing = self._publisher.publish(batch.messages[done:])

    async def _park(self, batch: Batch, index: int, reason: str) -> None:
        message = batch.messages[index]
        await self._outbox.park(batch.keys[index], message, reason)
        self.sent -= 1  # it is counted with its batch
        self._monitor.set_aside()
        log.error(
            "event parked: it cannot be published",
            extra={"id": message.id, "subject": message.subject, "reason": reason},
        )

    async def _fall_back(self, batch: Batch, confirmed: int) -> None:
        """Keep what was confirmed, and see to it that the rest goes out in the same order."""
        self.progress = batch.upto(confirmed)
        self.sent += confirmed
        self._outbox.fall_back()
        await self._outbox.advance(self.progress)
