"""The relay: read the next batch, publish it, move the progress; again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pgoutbox.backoff import Backoff
from pgoutbox.errors import Interrupted, Refused, TooLarge
from pgoutbox.messages.event import Message
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.nats.connect import Publisher, Stretch
from pgoutbox.nats.wire import MAX_PAYLOAD
from pgoutbox.outbox.batch import Batch, Withheld
from pgoutbox.outbox.progress import Key, Progress
from pgoutbox.relay.parking import Parking

log = logging.getLogger("pgoutbox.relay")

_DEPTH = 2  # batches in flight, at most
_FEW = 4  # events in a batch; with more the relay stays awake, and writers are spared the NOTIFY
_PAUSE_PER_EVENT = 0.000_125  # seconds; see Relay._behind_all()
_SHORTEST_PAUSE = 0.002  # seconds
_LONGEST_PAUSE = 0.02  # seconds
_FIRST_LOOK_AGAIN = 0.002  # seconds; a commit that is under way takes about as long
_LOOK_GROWTH = 1.2  # of pauses where writers can't notify: events wait a fifth of the silence
_QUIET = 0.01  # seconds without an event, then what was confirmed is recorded
_UNRECORDED = 2_000  # events, at most
_CHORES_INTERVAL = 0.5  # seconds, while a backlog is sent


class OutboxLike(Protocol):
    """What the relay needs of :class:`pgoutbox.outbox.reader.Outbox`."""

    async def next_batch(self, before: Progress) -> Batch:
        """Return what comes after ``before``."""

    async def noting_holders(self, before: Progress) -> Progress:
        """Return ``before`` with those noted who may fill gaps that a read has just made."""

    async def begin(self, batch: Batch, progress: Progress, in_flight: Sequence[Batch]) -> None:
        """Make sure that ``batch`` can be published behind those ``in_flight``."""

    async def advance(self, progress: Progress, in_flight: Sequence[Batch] = ()) -> None:
        """Record the progress, with the batches ``in_flight`` beyond it."""

    def fall_back(self) -> None:
        """Return the rest of the batches that failed first from now on."""

    @property
    def snapshot_pause(self) -> float | None:
        """For how many seconds no chunk of a snapshot is due; None where no snapshot runs."""

    async def look_for_snapshots(self) -> None:
        """Look now and then for snapshots to begin with."""

    def fail_snapshot(self, reason: str) -> None:
        """Give up the snapshot of which a chunk was read last."""


class WakeUpLike(Protocol):
    """What the relay needs of :class:`pgoutbox.relay.wakeup.WakeUp`."""

    @property
    def is_asleep(self) -> bool:
        """Whether writers notify."""

    @property
    def has_stragglers(self) -> bool:
        """Whether it is asleep beside transactions that end without notifying."""

    async def fall_asleep(self) -> bool:
        """Make writers notify; False while one is in the middle of a commit."""

    async def get_up(self) -> None:
        """Let writers commit without notifying."""

    async def wait(self, seconds: float) -> bool:
        """Wait for a hint, at most ``seconds``; return True if one came."""

    def doubt(self) -> None:
        """Note that events came that nobody had announced."""

    def interrupt(self) -> None:
        """End a wait now."""

    def verified(self, asked_at: float) -> None:
        """Note that an answer of the outbox has shown that this relay leads."""

    async def verify(self) -> None:
        """Raise unless this relay still leads."""


class ResendingLike(Protocol):
    """What the relay needs of :class:`pgoutbox.relay.resending.Resending`."""

    @property
    def is_wanted(self) -> bool:
        """Whether events are to be sent again."""

    async def publish_some(self, publisher: Publisher) -> None:
        """Publish some of them; nothing else is in flight."""


@dataclass(slots=True)
class Flight:
    """A batch that is sent and not yet known to be stored.

    ``mark`` is the stretch's number for its end; without one it is published alone.
    """

    batch: Batch
    mark: int | None = None
    publishing: asyncio.Task[None] | None = None
    stored: int = 0  # messages, parked ones included

    @property
    def rest(self) -> Sequence[Message]:
        """The messages that aren't stored."""
        return self.batch.messages[self.stored :]

    def fails_by_snapshot(self, interruption: Interrupted) -> bool:
        """Tell whether it failed because of a subject that a snapshot alone has."""
        chunk = self.batch.chunk
        return (
            chunk is not None
            and chunk.has_own_subject
            and self.stored >= len(self.batch.keys)
            and interruption.subject is not None
        )


class Relay:
    """Moves events from the outbox to the stream: in commit order, each at least once.

    The invariant: progress moves only over events that the stream has confirmed, and events are
    published in one order, whatever is lost, refused or killed on the way. What was read is
    published at once, behind what isn't confirmed yet; progress is recorded later, at the latest
    after ``record_interval`` seconds, and before anything that a restart must not tear.

    ``chores`` is called when nothing else uses the outbox's connection, ``landed`` with where
    events stand that are stored.
    """

    def __init__(
        self,
        outbox: OutboxLike,
        publisher: Publisher,
        wake_up: WakeUpLike,
        *,
        progress: Progress,
        poll_interval: float,
        record_interval: float,
        parking: Parking,
        chores: Callable[[Progress], Awaitable[None]],
        monitor: Monitor,
        resending: ResendingLike | None = None,
        landed: Callable[[Sequence[Key]], None] = lambda _: None,
    ) -> None:
        self._resending = resending
        self._landed = landed
        self._outbox = outbox
        self._publisher = publisher
        self._wake_up = wake_up
        self._poll_interval = poll_interval
        self._record_interval = record_interval
        self._parking = parking
        self._looks_at_parked = True
        self._chores = chores
        self._monitor = monitor
        self._is_stopping = False
        self._flights: deque[Flight] = deque()
        self._stretch: Stretch | None = None
        self._front = progress  # once all that is sent is stored
        self._read = 0  # events, those included that it passes over
        self._unrecorded = 0  # events, the same, that the recorded progress lacks
        self._has_unrecorded_chunk = False
        self._unrecorded_since = 0.0  # the first of them; of the monotonic clock
        self._chores_due = time.monotonic() + _CHORES_INTERVAL
        self._next_oldest: float | None = None  # commit time of what comes behind the flights
        self.progress = progress
        self.sent = 0  # events since this relay started

    @property
    def recorded(self) -> int:
        """How many events the recorded progress has passed since this relay began."""
        in_flight = sum(len(batch.passed) for batch in self._in_flight)
        return self._read - in_flight - self._unrecorded

    def stop(self) -> None:
        """Ask :meth:`run` and :meth:`drain` to end once what is in flight is confirmed."""
        self._is_stopping = True
        self._wake_up.interrupt()

    async def run(self) -> None:
        """Publish what is committed, as it is committed, until :meth:`stop`.

        Raises:
            Interrupted: publishing failed; ``progress`` covers what was confirmed before.
            Refused: an event can never be published, and isn't to be parked.
            DatabaseError: the listening connection was lost.
        """
        await self._or_fall_back(self._run())

    def look_at_parked(self) -> None:
        """Publish soon what is parked and wanted after all."""
        self._looks_at_parked = True

    async def drain(self) -> None:
        """Publish until no unsent event is left, or :meth:`stop`.

        Raises:
            Interrupted, Refused: see :meth:`run`.
        """
        await self._or_fall_back(self._drain())

    async def _or_fall_back(self, work: Awaitable[None]) -> None:
        """Do ``work``; where publishing fails, record what was confirmed."""
        try:
            await work
        except (Interrupted, Refused):
            await self._fall_back()
            raise
        finally:
            await self._abandon()

    async def _run(self) -> None:
        backoff = Backoff(_FIRST_LOOK_AGAIN, self._poll_interval, _LOOK_GROWTH)
        was_silent = False
        while not self._is_stopping:
            self._publisher.check()
            read = self._read
            await self._publish_all()
            if self._read > read:
                if not self._wake_up.is_asleep:
                    backoff.reset()
                elif was_silent and not self._wake_up.has_stragglers:
                    self._wake_up.doubt()
            was_silent = False
            if self._is_to_resend:
                continue
            if self._wake_up.is_asleep:
                # The look just now came after writers had begun to notify.
                pause = self._outbox.snapshot_pause
                has_stragglers = self._wake_up.has_stragglers
                rest = backoff.delay() if has_stragglers else self._poll_interval
                was_silent = not await self._rest(rest if pause is None else min(rest, pause))
                if was_silent and has_stragglers:
                    backoff.grow()
            elif await self._wake_up.fall_asleep():
                backoff.reset()
            else:
                await self._rest(backoff.next())
        await self._catch_up()

    async def _drain(self) -> None:
        await self._publish_all()
        while not self._is_stopping:
            pause = self._outbox.snapshot_pause
            if not self._is_to_resend:
                if pause is None:
                    break
                await self._rest(pause)
            await self._publish_all()
        await self._catch_up()

    async def _rest(self, seconds: float) -> bool:
        """Wait for a hint; record the progress where none comes soon. Return True if one came."""
        quiet = min(_QUIET, self._record_interval)
        if self._unrecorded and seconds > quiet:
            if await self._wake_up.wait(quiet):
                return True
            await self._record()
        return await self._wake_up.wait(seconds)

    async def _publish_all(self) -> None:
        """Publish until no unsent event is left, or :meth:`stop`, and wait until it is stored."""
        batch = await self._next_batch()
        while batch and not self._is_stopping:
            if self._looks_at_parked and batch.before.partial is None:
                await self._publish_parked()
            if batch.withheld:
                batch = await self._set_aside(batch)
            await self._make_room(batch)
            batch = await self._send(batch)
            if batch:
                await self._send_some_again()
            if batch and time.monotonic() >= self._chores_due:
                await self._do_chores()
        await self._settle()
        await self._record_if_due()
        if self._publisher.wants_look:
            self._close_stretch()
            await self._publisher.look()
        if self._looks_at_parked and not self._is_stopping:
            await self._publish_parked()
        await self._do_chores()
        await self._outbox.look_for_snapshots()
        await self._send_some_again()

    async def _do_chores(self) -> None:
        await self._chores(self.progress)
        self._chores_due = time.monotonic() + _CHORES_INTERVAL

    async def _send_some_again(self) -> None:
        """Publish some of the sent events that somebody wants again, behind what is in flight."""
        # Not between two events of one transaction.
        if not self._is_to_resend or self._front.partial is not None:
            return
        await self._settle()
        self._close_stretch()
        await self._wake_up.verify()
        assert self._resending is not None  # noqa: S101 - it is to resend
        await self._resending.publish_some(self._publisher)

    @property
    def _is_to_resend(self) -> bool:
        return self._resending is not None and self._resending.is_wanted

    async def _next_batch(self) -> Batch:
        """Read what comes behind all that is in flight."""
        asked_at = time.monotonic()
        batch = await self._outbox.next_batch(self._front)
        self._wake_up.verified(asked_at)
        # Dead gaps are gone; and where nothing follows, a transaction sent in part is complete.
        self._front = batch.before if batch else batch.after
        self._next_oldest = batch.oldest
        if not self._flights:
            self._move(self._front)
        return batch

    async def _set_aside(self, batch: Batch) -> Batch:
        """Park the events of ``batch`` that aren't among its messages.

        Returns the batch, or the part before an event that must not be parked.

        Raises:
            Refused, LimitTooLow: that is its first event.
        """
        await self._settle()  # what the stream has stored tells whether a limit is the mistake
        parked: list[tuple[Withheld, Refused]] = []
        for event in batch.withheld:
            refusal = self._refusal_of(event)
            if objection := await self._parking.objection(event.bytes, refusal):
                batch = batch.before_event(event.key)
                if not batch:  # nothing is left to be published first
                    raise objection
                break
            parked.append((event, refusal))
        await self._parking.park_withheld(parked)
        return batch

    def _refusal_of(self, event: Withheld) -> Refused:
        if event.error:
            return Refused(event.error)
        refusal = TooLarge(
            f"{event.bytes} bytes of row data exceed {MAX_PAYLOAD} of {self._publisher.max_payload}"
        )
        refusal.limit = MAX_PAYLOAD
        return refusal

    async def _publish_parked(self) -> None:
        """Publish parked events that are wanted after all, between two transactions."""
        self._looks_at_parked = False
        await self._settle()
        self._close_stretch()
        await self._wake_up.verify()
        await self._parking.publish_again()

    async def _settle(self) -> None:
        """Wait until all that is in flight is stored."""
        while self._flights:
            await self._confirm()
            await self._record_if_due()

    @property
    def _in_flight(self) -> list[Batch]:
        return [flight.batch for flight in self._flights]

    async def _make_room(self, batch: Batch) -> None:
        """Wait until ``batch`` may be sent: behind others, or alone."""
        while self._flights and not self._may_follow(batch):
            await self._record_landed()
            await self._confirm()

    def _may_follow(self, batch: Batch) -> bool:
        before = self._flights[-1]
        return (
            len(self._flights) < _DEPTH
            and before.mark is not None
            and not (batch.is_replay or before.batch.is_replay)
            and self._has_room(batch)
        )

    def _has_room(self, batch: Batch) -> bool:
        if self._stretch is None and not self._flights:
            self._stretch = self._publisher.begin_stretch()
        return self._stretch is not None and self._stretch.has_room(len(batch))

    async def _send(self, batch: Batch) -> Batch:
        """Send ``batch`` behind what is in flight; return what follows it."""
        began = time.monotonic()
        await self._outbox.begin(batch, self.progress, self._in_flight)
        waited = time.monotonic() - began
        self._read += len(batch.passed)
        goes_alone = not self._flights and not self._has_room(batch)
        flight = Flight(batch)
        self._flights.append(flight)
        self._front, self._next_oldest = batch.after, None
        await self._record_landed()  # after begin(), which may have written it, too
        if not batch.is_full and batch.chunk is None:
            await self._launch(flight, alone=goes_alone)
            return await self._behind_all(batch, waited)
        reading = asyncio.create_task(self._next_batch())
        try:
            await asyncio.sleep(0)  # PostgreSQL reads while we put messages together
            await self._launch(flight, alone=goes_alone)
            await self._wake_up.get_up()
            return await reading
        finally:
            await _cancel(reading)

    async def _launch(self, flight: Flight, *, alone: bool) -> None:
        if alone:
            self._close_stretch()
        await self._wake_up.verify()
        if self._stretch is None:
            self._publish_rest(flight)
        else:
            flight.mark = self._stretch.send(flight.rest)

    def _publish_rest(self, flight: Flight) -> None:
        flight.publishing = asyncio.create_task(self._publisher.publish(flight.rest))

    async def _behind_all(self, batch: Batch, waited: float) -> Batch:
        """Return what follows ``batch``, behind which nothing was visible when it was read.

        A few events find a relay asleep and leave it so. Writers have notified since before the
        batch was read, so they say if there is more, those that may fill a gap included: that costs
        a few of them a NOTIFY, and spares the relay most of its questions to the database. What may
        not notify is found at the next poll, as everywhere. Only who may fill a gap is asked now,
        so that the next event needn't wait for that.

        With many it gets up, and lets some more come together. A look costs about the same for a
        hundred events as for one, and what it takes is missing for writers that are as busy: so the
        more have come the longer it waits, with what it has ``waited`` for the disk.
        """
        count = len(batch.passed)
        if count > _FEW:
            await self._wake_up.get_up()
        if self._wake_up.is_asleep:
            self._front = await self._outbox.noting_holders(self._front)
            return Batch(before=self._front, after=self._front)
        pause = min(max(_SHORTEST_PAUSE, count * _PAUSE_PER_EVENT), _LONGEST_PAUSE)
        await asyncio.sleep(pause - waited)
        return await self._next_batch()

    async def _confirm(self) -> None:
        """Wait until the first batch in flight is stored, but for events that are parked."""
        flight = self._flights[0]
        if flight.mark is None:
            await self._confirm_alone(flight)
        elif self._stretch is not None and await self._stretch.confirm(flight.mark):
            self._count(flight, len(flight.rest))
        else:
            await self._send_again()
            return
        self._land()

    async def _send_again(self) -> None:
        """Publish one after another what is in flight and wasn't stored, for whatever reason."""
        self._close_stretch()
        while self._flights:
            await self._confirm_alone(self._flights[0])
            self._land()
            await self._record_if_due()

    async def _confirm_alone(self, flight: Flight) -> None:
        self._close_stretch()
        while True:
            if flight.publishing is None:
                await self._wake_up.verify()
                self._publish_rest(flight)
            try:
                await self._published(flight)
                return self._count(flight, len(flight.rest))
            except Refused as refusal:
                self._count(flight, refusal.confirmed)
                await self._park(flight, refusal)
            except Interrupted as interruption:
                self._count(flight, interruption.confirmed)
                if flight.fails_by_snapshot(interruption):
                    self._outbox.fail_snapshot(str(interruption))
                raise

    async def _published(self, flight: Flight) -> None:
        if flight.publishing is not None:
            publishing, flight.publishing = flight.publishing, None
            try:
                await publishing
            finally:
                await _cancel(publishing)

    async def _park(self, flight: Flight, refusal: Refused) -> None:
        message = flight.rest[0]
        if objection := await self._parking.objection(len(message.payload), refusal):
            raise objection
        await self._parking.park(flight.batch.key_of(flight.stored), message, refusal)
        flight.stored += 1

    def _close_stretch(self) -> None:
        """Note what is stored of the batches that were sent in a stretch, and end that."""
        if self._stretch is None:
            return
        stored = self._stretch.close()
        self._stretch = None
        for flight in self._flights:
            if flight.mark is not None:
                unsent = max(0, flight.mark - stored)
                self._count(flight, max(0, len(flight.batch) - unsent) - flight.stored)
                flight.mark = None

    def _count(self, flight: Flight, stored: int) -> None:
        """Count further messages of a batch as stored."""
        messages = flight.rest[:stored]
        self._parking.stored(messages)
        self._monitor.stored(messages, flight.batch.oldest)
        self._landed(flight.batch.keys[flight.stored : flight.stored + stored])
        flight.stored += stored
        self.sent += stored

    def _land(self) -> None:
        """Move the progress past the first batch in flight, to where the next one began."""
        batch = self._flights.popleft().batch
        if not self._unrecorded:
            self._unrecorded_since = time.monotonic()
        self._unrecorded += len(batch.passed)
        if batch.chunk is not None:
            self._has_unrecorded_chunk = True
            self._monitor.read_rows(batch.chunk.table, batch.chunk.place.rows)
        self._move(self._flights[0].batch.before if self._flights else self._front)
        lag = round(self._monitor.server_clock.age(batch.oldest), 4) if batch.oldest else None
        log.debug("batch published", extra={"events": len(batch), "lag_s": lag})

    def _move(self, progress: Progress) -> None:
        self.progress = progress
        first = self._flights[0].batch.oldest if self._flights else self._next_oldest
        self._monitor.found(first)

    # Recording the progress --------------------------------------------------------------------

    async def _record_if_due(self) -> None:
        waited = time.monotonic() - self._unrecorded_since
        is_due = not 0 < self._unrecorded < _UNRECORDED or waited >= self._record_interval
        if is_due or self._has_unrecorded_chunk:
            await self._record()

    async def _record_landed(self) -> None:
        """Record the progress if that is due, and where it has moved at all."""
        if self._unrecorded or self._has_unrecorded_chunk:
            await self._record_if_due()

    async def _record(self) -> None:
        await self._outbox.advance(self.progress, self._in_flight)
        await self._parking.record()
        self._unrecorded = 0
        self._has_unrecorded_chunk = False

    async def _catch_up(self) -> None:
        await self._settle()
        await self._record()

    async def _fall_back(self) -> None:
        """Record what was confirmed, and have the rest go out again in the same order."""
        self._close_stretch()
        while self._flights and not self._flights[0].rest:
            self._land()
        if self._flights:
            flight = self._flights[0]
            self._move(flight.batch.upto(flight.stored))
        await self._abandon()
        self._front = self.progress
        self._outbox.fall_back()
        await self._record()

    async def _abandon(self) -> None:
        """Wait for nothing any more."""
        for flight in self._flights:
            if flight.publishing is not None:
                await _cancel(flight.publishing)
        self._flights.clear()


async def _cancel(task: asyncio.Task[object]) -> None:
    """End a task whose result nobody waits for; asyncio logs an exception that nobody looks at."""
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    elif not task.cancelled():
        task.exception()
