"""The loop of a durable consumer: fetch, handle in order, acknowledge."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError, ServiceUnavailableError

from pgoutbox.consumer.change import Change

log = logging.getLogger("pgoutbox.consumer")

Handle = Callable[[Change], Awaitable[object]]
HandleTransaction = Callable[[Sequence[Change]], Awaitable[object]]
Key = Callable[[Change], Hashable]

DELAYS = (1.0, 5.0, 30.0, 120.0)  # seconds before a change that failed is tried again

_FIRST_WAIT = 5.0  # seconds for a message when there is none
_MORE_WAIT = 0.02  # seconds for those behind it
_AHEAD = 64  # messages for each that is handled at a time
_LARGEST_TRANSACTION = 10_000  # events


def by_table(change: Change) -> Hashable:
    """Return what orders changes by default: those of one table come one after another."""
    return change.schema, change.table


async def consume(
    client: Client,
    handle: Handle,
    *,
    durable: str,
    stream: str = "wal_listener",
    subjects: Sequence[str] = (),
    parallel: int = 1,
    key: Key = by_table,
    delays: Sequence[float] = DELAYS,
    ack_wait: float = 30.0,
    stop: asyncio.Event | None = None,
) -> None:
    """Handle each change of a stream, in order by key, until ``stop`` is set.

    It goes on where it stopped, and waits for a stream that isn't there yet. A change is
    acknowledged once ``handle`` has returned. If that raises, the change is tried again after each
    of ``delays``, and changes of the same key wait for it; after the last it is given up with a
    line in the log, and stays in the stream. A change may come twice: see
    :class:`pgoutbox.consumer.Inbox`. A TRUNCATE waits for all changes before it, and is waited for.

    Several processes may share a ``durable``, but then order by key is lost.

    Args:
        client: of nats-py, connected.
        handle: takes one :class:`Change`.
        durable: the consumer's name.
        stream: the relay's stream.
        subjects: only these; all by default.
        parallel: how many changes of different keys are handled at a time.
        key: what of a change decides its order, such as ``lambda change: change.row["id"]``.
        delays: seconds.
        ack_wait: seconds after which the server gives what a killed consumer had to the next one,
            which waits for that. What takes longer to handle is kept alive.
        stop: when it is set, what is being handled is finished first.

    """
    consumer = _Consumer(
        client, durable, stream, subjects, parallel * _AHEAD, delays, ack_wait, stop
    )
    await consumer.run(_Lanes(consumer, handle, parallel, key))


async def consume_transactions(
    client: Client,
    handle: HandleTransaction,
    *,
    durable: str,
    stream: str = "wal_listener",
    delays: Sequence[float] = DELAYS,
    ack_wait: float = 30.0,
    stop: asyncio.Event | None = None,
) -> None:
    """Handle whole transactions, one after another, in commit order.

    Needs a relay with ``--headers`` and all of its events: no filter, no shard, no subjects. A
    transaction of more than 10,000 events is passed on in pieces of that size. Otherwise like
    :func:`consume`.
    """
    consumer = _Consumer(client, durable, stream, (), _LARGEST_TRANSACTION, delays, ack_wait, stop)
    await consumer.run(_Transactions(consumer, handle))


class _Consumer:
    """Fetches messages, and keeps those alive that aren't acknowledged yet."""

    def __init__(
        self,
        client: Client,
        durable: str,
        stream: str,
        subjects: Sequence[str],
        most: int,
        delays: Sequence[float],
        ack_wait: float,
        stop: asyncio.Event | None,
    ) -> None:
        self._ack_wait = ack_wait
        self._jetstream = client.jetstream()
        self._stream = stream
        self._delays = delays
        self._stop = stop or asyncio.Event()
        self._most = most
        self._config = ConsumerConfig(
            durable_name=durable,
            filter_subjects=list(subjects) or None,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait,
            max_ack_pending=most,
        )
        self._is_busy = False  # the last fetch returned something
        self._open: dict[str, Msg] = {}  # not acknowledged, in order; by the subject for that

    async def run(self, sink: _Lanes | _Transactions) -> None:
        """Fetch until told to stop."""
        subscription = await self._subscribe()
        if subscription is None:
            return
        keeping = asyncio.create_task(self._keep_alive())
        try:
            async with sink:
                while not self._stop.is_set():
                    for message in await self._fetch(subscription):
                        self._open[message.reply] = message
                        await sink.put(message)
            for message in self._open.values():  # in order, to be delivered again at once
                await message.nak()
        finally:
            keeping.cancel()
            await subscription.unsubscribe()

    async def attempt(self, work: Callable[[], Awaitable[object]], what: str) -> None:
        """Do the work; after a failure again, and in the end give it up.

        Raises:
            Stopped: it failed, and nobody is to wait for another attempt.

        """
        for delay in (*self._delays, None):
            try:
                await work()
            except Exception as error:
                if delay is None:
                    log.error("given up: %s: %r", what, error)
                    return
                log.warning("failed, again in %s s: %s: %r", delay, what, error)
            else:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay)
            if self._stop.is_set():
                raise Stopped

    async def settle(self, messages: Sequence[Msg]) -> None:
        """Acknowledge what is handled or given up."""
        for message in messages:
            await message.ack()
            self._open.pop(message.reply, None)

    async def _subscribe(self) -> JetStreamContext.PullSubscription | None:
        """Return the subscription, once there is such a stream; None when told to stop."""
        while not self._stop.is_set():
            try:
                found = await self._jetstream.add_consumer(self._stream, self._config)
                if found.num_ack_pending:
                    await self._outwait(found.num_ack_pending)
                return await self._jetstream.pull_subscribe_bind(found.name, self._stream)
            except (NotFoundError, ServiceUnavailableError, nats.errors.TimeoutError):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), 1)
        return None

    async def _outwait(self, count: int) -> None:
        """Let what a consumer that was killed has left unacknowledged come first, in order.

        The server holds it back for that one until ``ack_wait`` is over, and would give us what
        comes behind it.
        """
        log.info("waiting for %d messages that were not acknowledged before", count)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), self._ack_wait + 0.5)

    async def _fetch(self, subscription: JetStreamContext.PullSubscription) -> list[Msg]:
        room = self._most - len(self._open)
        if room <= 0:  # all that the server would give us is being handled
            await asyncio.sleep(0.01)
            return []
        # A fetch of several waits until it has them all, or its time is over.
        count, wait = (min(room, 256), _MORE_WAIT) if self._is_busy else (1, _FIRST_WAIT)
        fetching = asyncio.create_task(subscription.fetch(count, timeout=wait))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({fetching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            found = fetching.result() if fetching.done() else []
        except (TimeoutError, ServiceUnavailableError):
            found = []
        finally:
            fetching.cancel()
            stopping.cancel()
        self._is_busy = bool(found)
        return found

    async def _keep_alive(self) -> None:
        """Tell the server of what is still being handled, so that it isn't delivered again."""
        while True:
            await asyncio.sleep(self._ack_wait / 3)
            for message in tuple(self._open.values()):
                with suppress(nats.errors.Error):
                    await message.in_progress()


class Stopped(Exception):
    """The consumer is to stop; what isn't acknowledged comes again."""


class _Lanes:
    """Several changes at a time, those of one key one after another."""

    def __init__(self, consumer: _Consumer, handle: Handle, parallel: int, key: Key) -> None:
        self._consumer = consumer
        self._handle = handle
        self._key = key
        self._queues = [asyncio.Queue[Msg | None]() for _ in range(parallel)]
        self._workers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        self._workers = [asyncio.create_task(self._work(queue)) for queue in self._queues]

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for queue, worker in zip(self._queues, self._workers, strict=True):
            if kind is None:
                queue.put_nowait(None)  # it ends behind what it has
            else:
                worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=kind is not None)

    async def put(self, message: Msg) -> None:
        """Have a message handled, behind those of its key."""
        change = _read(message)
        if change is None or change.action == "TRUNCATE":
            await self._idle()
            self._queues[0].put_nowait(message)
            await self._idle()
        else:
            self._queues[hash(self._key(change)) % len(self._queues)].put_nowait(message)

    async def _idle(self) -> None:
        await asyncio.gather(*(queue.join() for queue in self._queues))

    async def _work(self, queue: asyncio.Queue[Msg | None]) -> None:
        is_stopped = False
        while message := await queue.get():
            change = _read(message)
            try:
                if not is_stopped:
                    if change is not None:
                        await self._consumer.attempt(
                            lambda change=change: self._handle(change),  # type: ignore[misc]
                            _name(change),
                        )
                    await self._consumer.settle([message])
            except Stopped:
                is_stopped = True  # those behind it must not be handled before it
            finally:
                queue.task_done()


class _Transactions:
    """Whole transactions, one after another."""

    def __init__(self, consumer: _Consumer, handle: HandleTransaction) -> None:
        self._consumer = consumer
        self._handle = handle
        self._messages: list[Msg] = []
        self._changes: list[Change] = []
        self._is_stopped = False

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass

    async def put(self, message: Msg) -> None:
        """Add a message, and have its transaction handled where that is the last one."""
        change = _read(message)
        self._messages.append(message)
        if change is not None:
            if change.number is None:
                raise ValueError("the relay's messages have no transactions: set --headers")
            self._changes.append(change)
        is_last = change is None or change.number is None or change.number[0] == change.number[1]
        if is_last or len(self._messages) >= _LARGEST_TRANSACTION:
            await self._finish()

    async def _finish(self) -> None:
        messages, changes = self._messages, self._changes
        self._messages, self._changes = [], []
        if self._is_stopped:
            return
        try:
            if changes:
                await self._consumer.attempt(lambda: self._handle(changes), _name(changes[0]))
            await self._consumer.settle(messages)
        except Stopped:
            self._is_stopped = True


def _read(message: Msg) -> Change | None:
    """Return the change; None, with a line in the log, where a message has none."""
    try:
        return Change.of(message)
    except ValueError as error:
        log.error("passed over: %s", error)
        return None


def _name(change: Change) -> str:
    return f"{change.action} {change.schema}.{change.table} at sequence {change.sequence}"
