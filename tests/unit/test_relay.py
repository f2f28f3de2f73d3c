"""The relay against fakes of what it works with: an outbox, a publisher, a wake-up."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from pgoutbox.errors import DatabaseError, Interrupted, LimitTooLow, Refused, TooLarge
from pgoutbox.messages.event import EventNumber, Message
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.outbox.batch import Batch, Withheld
from pgoutbox.outbox.disk import Sight
from pgoutbox.outbox.parked import Retry
from pgoutbox.outbox.progress import Gap, Key, Progress
from pgoutbox.relay import loop
from pgoutbox.relay.loop import Relay
from pgoutbox.relay.parking import OnOversize, Parking
from tests.support.waiting import eventually

_SIGHT = Sight(1, 0)


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Outbox:
    """Transactions by position, each a list of its events' texts, read in batches of ``limit``.

    ``noted`` is the plan that a restart would find, as the real outbox writes it.
    """

    transactions: dict[int, list[str]] = field(default_factory=dict)
    limit: int = 3
    withheld: set[str] = field(default_factory=set)  # texts of events without rows
    unflushed: set[int] = field(default_factory=set)  # positions
    progress: Progress = field(default_factory=Progress)  # as it is recorded
    noted: tuple[Progress, ...] = ()
    parked: list[str] = field(default_factory=list)
    retries: list[Retry] = field(default_factory=list)
    log: list[str] = field(default_factory=list)  # what happened, beside reading
    replay: tuple[Progress, ...] = ()
    fails: Callable[[], None] = lambda: None
    snapshot_pause: float | None = None

    async def noting_holders(self, before: Progress) -> Progress:
        if before.gaps:
            self.log.append("asked who may fill gaps")
        return before

    async def next_batch(self, before: Progress) -> Batch:
        await asyncio.sleep(0)
        self.fails()
        while self.replay:
            batch = self._read(before, before.towards(self.replay[0]))
            if batch:
                return batch
            self.replay = self.replay[1:]
        return self._read(before, (*before.gaps, Gap(before.high + 1, 2**62)))

    def _read(self, before: Progress, ranges: Sequence[Gap]) -> Batch:
        keys = [
            Key(position, seq)
            for position in self._positions(before, ranges)
            for seq in range(len(self.transactions[position]))
            if not before.covers(Key(position, seq))
        ][: self.limit]
        is_full = len(keys) == self.limit
        is_cut = is_full and keys[-1].seq < len(self.transactions[keys[-1].position]) - 1
        read = [key for key in keys if self.text(key) not in self.withheld]
        return Batch(
            compose=lambda: [Message("s", self.text(key), b"") for key in read],
            keys=read,
            before=before,
            after=before.after(keys, is_cut=is_cut),
            is_full=is_full,
            is_replay=bool(self.replay),
            has_long_transaction=is_cut or any(a.position == b.position for a, b in pairwise(keys)),
            unflushed=_SIGHT if any(key.position in self.unflushed for key in keys) else None,
            passed=keys,
            withheld=[
                Withheld(key, self.text(key), 10, EventNumber(0, 0), None)
                for key in keys
                if key not in read
            ],
        )

    def _positions(self, before: Progress, ranges: Sequence[Gap]) -> list[int]:
        partial = before.partial.position if before.partial else 0
        found = [p for p in self.transactions if any(g.first <= p <= g.last for g in ranges)]
        return sorted({*found, *([partial] if partial else [])}, key=lambda p: (p != partial, p))

    def text(self, key: Key) -> str:
        return self.transactions[key.position][key.seq]

    async def begin(self, batch: Batch, progress: Progress, in_flight: Sequence[Batch]) -> None:
        plan = self._plan((*in_flight, batch))
        if batch.unflushed or plan[-1:] not in ((), self.noted[-1:]):
            self.log.append("flush" if batch.unflushed else "plan")
            self.progress, self.noted = progress, plan

    async def advance(self, progress: Progress, in_flight: Sequence[Batch] = ()) -> None:
        self.progress, self.noted = progress, self._plan(in_flight)
        self.log.append(f"recorded {progress.high}")

    def _plan(self, in_flight: Sequence[Batch]) -> tuple[Progress, ...]:
        if self.replay:
            return self.replay
        long = [n for n, batch in enumerate(in_flight, 1) if batch.has_long_transaction]
        return tuple(batch.after for batch in in_flight[: long[-1] if long else 0])

    def fall_back(self) -> None:
        self.replay = self.noted

    async def park(self, key: Key, message: Message, reason: str) -> str:
        self.parked.append(self.text(key))
        return reason

    async def look_for_snapshots(self) -> None:
        pass

    def fail_snapshot(self, reason: str) -> None:
        raise AssertionError(reason)

    async def note_largest(self, size: int) -> None:
        pass

    async def next_retry(self) -> Retry | None:
        return self.retries[0] if self.retries else None

    async def unpark(self, event_id: str) -> None:
        self.retries = [retry for retry in self.retries if retry.id != event_id]

    async def park_again(self, event_id: str, reason: str) -> None:
        await self.unpark(event_id)
        self.log.append(f"{event_id} stays parked: {reason}")

    async def park_withheld(self, event: Withheld, reason: str) -> str:
        self.parked.append(self.text(event.key))
        return reason


class Stream:
    """Publishes into a list; each batch alone, or in a stretch that a test may hold up or break.

    As the real one it stores a message of a stretch only behind the one that was sent before it,
    and a repeat not at all. ``too_large`` are texts that it refuses.
    """

    max_payload = 9

    async def is_unused(self) -> bool:
        return not self.stored

    def __init__(self, outbox: Outbox, *, pipelines: bool = True) -> None:
        self.stored: list[str] = []
        self.too_large: set[str] = set()
        self.pipelines = pipelines
        self.flow = asyncio.Event()  # messages of a stretch are confirmed
        self.flow.set()
        self.takes = 10**9  # messages, then the connection is lost
        self.unreported = 0  # of these, the last ones: stored, and their answers are lost
        self.loses: set[str] = set()  # messages of a stretch, once each
        self.most_in_flight = 0
        self.on_stored: Callable[[str], None] = lambda _: None
        self._outbox = outbox
        self._number = 0
        self._confirmed = 0
        self._is_broken = False

    wants_look = False

    def check(self) -> None:
        pass

    async def look(self) -> None:
        pass

    async def publish(self, messages: Sequence[Message]) -> None:
        for index, message in enumerate(messages):
            await asyncio.sleep(0)
            error: Interrupted | Refused | None = None
            if message.id in self.too_large:
                error = TooLarge("too large")
            elif self.takes <= 0:
                error = Interrupted("lost")
            if error is not None:
                error.confirmed = max(0, index - self.unreported)
                raise error
            self._store(message.id)
        if self.takes <= 0 and self.unreported:
            lost = Interrupted("lost")
            lost.confirmed = len(messages) - self.unreported
            raise lost

    def _store(self, text: str) -> None:
        self.takes -= 1
        if text not in self.stored:
            self.stored.append(text)
            self._outbox.log.append(f"stored {text}")
            self.on_stored(text)

    def begin_stretch(self) -> Stream | None:
        self._is_broken = False
        return self if self.pipelines else None

    def has_room(self, count: int) -> bool:
        return not self._is_broken

    def send(self, messages: Sequence[Message]) -> int | None:
        if self.too_large & {message.id for message in messages}:
            return None
        for message in messages:
            self._number += 1
            if message.id in self.loses:
                self.loses.remove(message.id)
                self._is_broken = True
            if self._is_broken or self.takes <= 0:
                continue
            self._store(message.id)
            self._confirmed = self._number
        self.most_in_flight = max(self.most_in_flight, self._number - self._confirmed)
        return self._number

    async def confirm(self, number: int) -> bool:
        await self.flow.wait()
        if self.takes <= 0 and self._confirmed - self.unreported < number:
            raise Interrupted("lost")
        return self._confirmed >= number

    def close(self) -> int:
        self._is_broken, confirmed = False, self._confirmed - self.unreported
        self._confirmed = self._number
        return confirmed


class WakeUp:
    """Writers always notify; a test gives the hints."""

    is_asleep = False
    has_stragglers = False

    def __init__(self) -> None:
        self.hint = asyncio.Event()
        self.is_deposed = False
        self.doubts = 0
        self.has_got_up = False

    async def fall_asleep(self) -> bool:
        self.is_asleep = True
        return True

    async def get_up(self) -> None:
        self.has_got_up = self.is_asleep
        self.is_asleep = False

    async def wait(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(min(seconds, 0.02)):
                await self.hint.wait()
        except TimeoutError:
            return False
        self.hint.clear()
        return True

    def doubt(self) -> None:
        self.doubts += 1

    def interrupt(self) -> None:
        self.hint.set()

    def verified(self, asked_at: float) -> None:
        pass

    async def verify(self) -> None:
        if self.is_deposed:
            raise DatabaseError("the connection to PostgreSQL was lost")


class World:
    """A relay and what it works with."""

    def __init__(self, *, pipelines: bool = True, limit: int = 3) -> None:
        self.outbox = Outbox(limit=limit)
        self.stream = Stream(self.outbox, pipelines=pipelines)
        self.wake_up = WakeUp()
        self.on_oversize: OnOversize = "park"
        self.record_interval = 60.0

    def relay(self, progress: Progress | None = None, parking: Parking | None = None) -> Relay:
        """Return one that goes on from what is recorded, as after a restart, or from there."""

        async def no_chores(_: Progress) -> None:
            pass

        self.outbox.replay = self.outbox.noted
        monitor = Monitor()
        return Relay(
            self.outbox,
            self.stream,
            self.wake_up,
            progress=self.outbox.progress if progress is None else progress,
            poll_interval=1.0,
            record_interval=self.record_interval,
            parking=parking
            or Parking(self.outbox, self.stream, monitor, on_oversize=self.on_oversize),
            chores=no_chores,
            monitor=monitor,
        )

    def commit(self, *transactions: str, first: int = 1) -> None:
        """Make transactions visible, whose events are the words of each."""
        for position, events in enumerate(transactions, first):
            self.outbox.transactions[position] = events.split()


@pytest.fixture(params=[True, False], ids=["pipelined", "alone"])
def world(request: pytest.FixtureRequest) -> World:
    return World(pipelines=request.param)


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(relay.run())
    try:
        yield task
    finally:
        relay.stop()
        await asyncio.gather(task, return_exceptions=True)


async def test_events_that_nobody_has_notified_of_are_a_reason_to_doubt(world: World) -> None:
    async with running(world.relay()):
        await eventually(lambda: world.wake_up.is_asleep)
        world.commit("a")
        await eventually(lambda: world.wake_up.doubts == 1)
        assert world.stream.stored == ["a"]


async def test_pauses_beside_stragglers_grow_with_silence_and_not_with_hints(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    is_hinted = True

    async def wait(seconds: float) -> bool:
        await asyncio.sleep(0)
        pauses.append(seconds)
        return is_hinted

    world.wake_up.has_stragglers = True
    monkeypatch.setattr(world.wake_up, "wait", wait)
    async with running(world.relay()):
        await eventually(lambda: len(pauses) >= 20)
        assert max(pauses) <= loop._FIRST_LOOK_AGAIN
        is_hinted = False
        await eventually(lambda: pauses[-1] > 2 * loop._FIRST_LOOK_AGAIN)


async def test_everything_is_stored_in_order_and_recorded(world: World) -> None:
    world.commit(*"abcdefghij")
    relay = world.relay()

    await relay.drain()

    assert world.stream.stored == list("abcdefghij")
    assert world.outbox.progress == relay.progress == Progress(10)
    assert relay.sent == 10
    assert world.outbox.noted == ()


async def test_transactions_of_one_event_need_no_plan(world: World) -> None:
    """Nothing of them can be torn, however full a batch is."""
    world.commit(*"abcdefghij")

    await world.relay().drain()

    assert "plan" not in world.outbox.log


async def test_plan_is_noted_before_a_transaction_of_several_events_is_sent(world: World) -> None:
    world.commit("a", "b c d e f g h", "i")
    world.outbox.limit = 2

    await world.relay().drain()

    log = world.outbox.log
    assert world.stream.stored == list("abcdefghi")
    assert log.index("plan") < log.index("stored b")
    assert log.count("plan") == 4


async def test_what_is_recorded_keeps_the_plan_of_a_batch_that_is_sent_next(world: World) -> None:
    world.record_interval = 0.0
    world.commit("a", "b c d e f g h", "i")
    world.outbox.limit = 2
    ends: dict[str, list[Key | None]] = {}  # in the plan, as each event was stored

    def note(text: str) -> None:
        ends[text] = [progress.partial for progress in world.outbox.noted]

    world.stream.on_stored = note
    await world.relay().drain()

    assert Key(2, 2) in ends["c"]
    assert Key(2, 4) in ends["e"]


async def test_unflushed_commit_is_flushed_before_it_is_sent(world: World) -> None:
    world.commit(*"abcdefgh")
    world.outbox.unflushed = {7}

    await world.relay().drain()

    log = world.outbox.log
    assert log.index("flush") < log.index("stored g")


async def test_a_batch_is_recorded_before_the_next_one_is_waited_for(world: World) -> None:
    world.record_interval = 0.0
    world.commit(*"abcdefghi")
    world.stream.too_large = {"f"}  # so that nothing may follow the second batch

    await world.relay().drain()

    log = world.outbox.log
    assert log.index("recorded 3") < log.index("stored d")


async def test_two_batches_are_in_flight_and_no_third() -> None:
    world = World()
    world.commit(*"abcdefghij")
    world.stream.flow.clear()
    relay = world.relay()

    draining = asyncio.create_task(relay.drain())
    await eventually(lambda: len(world.stream.stored) == 6)
    for _ in range(20):
        await asyncio.sleep(0)

    assert world.stream.stored == list("abcdef")
    assert relay.progress == Progress(0)
    world.stream.flow.set()
    await draining
    assert world.stream.stored == list("abcdefghij")


async def test_oversized_event_in_a_full_batch_is_parked_alone(world: World) -> None:
    world.commit(*"abcdefghi")
    world.stream.too_large = {"e"}
    relay = world.relay()

    await relay.drain()

    assert world.stream.stored == list("abcdfghi")
    assert world.outbox.parked == ["e"]
    assert world.outbox.progress == Progress(9)
    assert relay.sent == 8


async def test_events_without_rows_are_parked_and_the_others_go_on(world: World) -> None:
    world.commit("a", "b c d", "e f", *"ghi")
    world.outbox.withheld = set("acdi")

    await world.relay().drain()

    assert world.stream.stored == list("befgh")
    assert sorted(world.outbox.parked) == list("acdi")
    assert world.outbox.progress == Progress(6)


@pytest.mark.parametrize("at", "abcefi")
async def test_relay_that_is_told_to_stop_at_an_event_without_rows_sends_what_came_before(
    world: World, at: str
) -> None:
    world.commit("a", "b c d", "e f", *"ghi")
    world.outbox.withheld = {at}
    world.on_oversize = "stop"

    with pytest.raises(Refused, match="max_payload of 9"):
        await world.relay().drain()

    assert world.stream.stored == [text for text in "abcdefghi" if text < at]
    assert world.outbox.parked == []
    world.on_oversize = "park"
    await world.relay().drain()
    assert world.stream.stored == [text for text in "abcdefghi" if text != at]


@pytest.mark.parametrize("at", "aei")
async def test_limit_that_refuses_less_than_was_stored_is_waited_for(world: World, at: str) -> None:
    """What comes before is published, nothing is parked, and it goes on once that is mended."""
    world.commit("a", "b c d", "e f", *"ghi")
    world.outbox.withheld = {at}
    world.on_oversize = "auto"
    parking = Parking(world.outbox, world.stream, Monitor(), largest=10)

    for _ in range(2):
        with pytest.raises(LimitTooLow, match="one of 10 bytes was published before"):
            await world.relay(parking=parking).drain()

    assert world.stream.stored == [text for text in "abcdefghi" if text < at]
    assert world.outbox.parked == []
    world.outbox.withheld = set()
    await world.relay(parking=parking).drain()
    assert world.stream.stored == list("abcdefghi")


async def test_limit_that_refuses_the_very_first_message_is_waited_for(world: World) -> None:
    world.commit("a", "b")
    world.stream.too_large = {"a"}
    world.on_oversize = "auto"

    with pytest.raises(LimitTooLow, match="has stored nothing yet"):
        await world.relay().drain()

    assert world.outbox.parked == world.stream.stored == []
    world.stream.too_large = set()
    world.commit("a", "b", "c", "d")
    world.stream.too_large = {"c"}
    await world.relay().drain()
    assert world.stream.stored == list("abd")
    assert world.outbox.parked == ["c"]


async def test_parked_events_are_published_again_between_transactions(world: World) -> None:
    world.commit("a b c d e", "f")
    world.outbox.retries = [
        Retry("x", Message("s", "x", b"")),
        Retry("y", "still too large"),
        Retry("z", Message("s", "z", b"")),
    ]
    world.stream.too_large = {"z"}

    await world.relay().drain()

    assert world.stream.stored == list("xabcdef")
    assert world.outbox.retries == []
    assert [said for said in world.outbox.log if "stays" in said] == [
        "y stays parked: still too large",
        "z stays parked: too large",
    ]


async def test_relay_that_is_told_to_stop_at_an_oversized_event_records_what_came_before(
    world: World,
) -> None:
    world.commit(*"abcdefghi")
    world.stream.too_large = {"e"}
    world.on_oversize = "stop"
    relay = world.relay()

    with pytest.raises(Refused):
        await relay.drain()

    assert world.stream.stored == list("abcd")
    assert world.outbox.progress == relay.progress == Progress(4)
    assert relay.sent == 4


async def test_message_lost_in_a_stretch_is_sent_again_before_those_behind_it() -> None:
    world = World()
    world.commit(*"abcdefghijkl")
    world.stream.loses = {"e"}

    await world.relay().drain()

    assert world.stream.stored == list("abcdefghijkl")
    assert world.outbox.progress == Progress(12)


@pytest.mark.parametrize("taken", range(13))
async def test_lost_connection_keeps_what_was_confirmed(world: World, taken: int) -> None:
    """And the next connection goes on with the next event, in the same order."""
    world.commit("a", "b c d", "e f", "g", "h i j k l")
    world.stream.takes = taken
    relay = world.relay()

    if taken < 12:
        with pytest.raises(Interrupted):
            await relay.drain()
        assert relay.sent == len(world.stream.stored) == taken
    world.commit("late", first=20)
    world.stream.takes = 100
    await world.relay(progress=relay.progress).drain()

    assert world.stream.stored == [*"abcdefghijkl", "late"]
    assert world.outbox.progress.high == 20


@pytest.mark.parametrize("killed_at", range(1, 12))
async def test_late_position_gets_into_no_transaction_after_a_kill(
    world: World, killed_at: int
) -> None:
    """What was sent beyond the recorded progress goes out again, one batch after another."""
    world.outbox.limit = 2
    world.outbox.transactions = {5: ["a"], 6: list("bcd"), 7: ["e"], 8: list("fgh"), 9: list("ijk")}

    def kill() -> None:
        if len(world.stream.stored) >= killed_at:
            raise Killed

    world.outbox.fails = kill
    with pytest.raises(Killed):
        await world.relay()._drain()
    world.outbox.fails = lambda: None
    world.outbox.transactions |= {1: ["x", "y"], 4: ["z"]}
    await world.relay().drain()

    text = "".join(world.stream.stored)
    assert sorted(text) == sorted("abcdefghijkxyz")
    assert all(whole in text for whole in ("bcd", "fgh", "ijk", "xy"))
    assert world.outbox.progress.covers(Key(9, 2))


async def test_failed_batch_is_sent_again_in_the_same_order(world: World) -> None:
    """On the next connection, whatever has become visible meanwhile."""
    world.outbox.limit = 4
    world.outbox.transactions = {5: list("abc"), 6: list("defgh")}
    world.stream.takes, world.stream.unreported = 4, 2
    relay = world.relay()
    with pytest.raises(Interrupted):
        await relay.drain()
    replay = world.outbox.replay

    assert world.stream.stored == list("abcd")
    assert relay.progress.partial == Key(5, 1)
    world.outbox.transactions |= {1: ["x", "y"]}
    world.stream.takes, world.stream.unreported = 100, 0
    again = world.relay(progress=relay.progress)
    world.outbox.replay = replay  # the outbox is the same
    await again.drain()

    assert world.stream.stored == list("abcdefghxy")


async def test_planned_batches_go_alone() -> None:
    """Of those before it nothing may be unrecorded that the recorded plan no longer has."""
    world = World(limit=2)
    world.commit("a b c", "d e f", "g", "h")
    first = Progress(partial=Key(1, 1))
    world.outbox.noted = (first, first.after([Key(1, 2), Key(2, 0)], is_cut=True))
    world.stream.flow.clear()
    relay = world.relay()

    draining = asyncio.create_task(relay.drain())
    await eventually(lambda: world.stream.stored == ["a", "b"])
    for _ in range(20):
        await asyncio.sleep(0)
    assert world.stream.stored == ["a", "b"]

    world.stream.flow.set()
    await draining
    assert world.stream.stored == list("abcdefgh")


async def test_gap_is_filled_when_its_transaction_becomes_visible(world: World) -> None:
    world.outbox.transactions = {1: ["a"], 3: ["c"]}
    relay = world.relay()
    await relay.drain()
    assert world.outbox.progress == Progress(3, (Gap(2, 2),))

    world.commit("b", first=2)
    await relay.drain()

    assert world.stream.stored == ["a", "c", "b"]
    assert world.outbox.progress == Progress(3)


async def test_gap_leaves_a_relay_asleep_that_asks_who_may_fill_it() -> None:
    world = World()
    async with running(world.relay()):
        await eventually(lambda: world.wake_up.is_asleep)
        world.outbox.transactions = {1: ["a"], 3: ["c"]}
        world.wake_up.interrupt()
        await eventually(lambda: "recorded 3" in world.outbox.log)

    assert "asked who may fill gaps" in world.outbox.log
    assert not world.wake_up.has_got_up


async def test_stop_waits_for_what_is_in_flight_and_records_it() -> None:
    world = World()
    world.commit(*"abcdef")
    world.stream.flow.clear()
    relay = world.relay()

    async with running(relay) as task:
        await eventually(lambda: len(world.stream.stored) == 6)
        relay.stop()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        world.stream.flow.set()
        await task

    assert world.outbox.progress == Progress(6)


async def test_progress_is_recorded_when_nothing_more_comes(world: World) -> None:
    async with running(world.relay()):
        world.commit("a")
        world.wake_up.interrupt()
        await eventually(lambda: "recorded 1" in world.outbox.log)


async def test_relay_without_a_record_interval_records_each_batch_at_once(world: World) -> None:
    world.record_interval = 0.0
    world.commit(*"abcdefghi")

    await world.relay().drain()

    assert {"recorded 3", "recorded 6", "recorded 9"} <= set(world.outbox.log)


async def test_progress_is_recorded_after_so_many_events(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_UNRECORDED", 6)
    world.commit(*"abcdefghijkl")

    await world.relay().drain()

    log = world.outbox.log
    assert log.index("recorded 6") < log.index("stored l")
    assert "recorded 3" not in log


async def test_relay_that_no_longer_leads_sends_nothing(world: World) -> None:
    world.commit(*"abc")
    world.wake_up.is_deposed = True

    with pytest.raises(DatabaseError):
        await world.relay().drain()

    assert world.stream.stored == []
    assert world.outbox.progress == Progress(0)


async def test_relay_that_loses_the_lead_sends_no_further_batch(world: World) -> None:
    world.commit(*"abc")
    relay = world.relay()
    await relay.drain()
    world.wake_up.is_deposed = True
    world.commit(*"def", first=4)

    with pytest.raises(DatabaseError):
        await relay.drain()

    assert world.stream.stored == ["a", "b", "c"]
    assert world.outbox.progress == Progress(3)


@pytest.mark.parametrize("is_over", [True, False])
async def test_failure_of_what_nobody_waits_for_any_more_is_not_logged_by_asyncio(
    is_over: bool,
) -> None:
    said: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))

    async def fail() -> None:
        raise Interrupted("lost")

    task = asyncio.create_task(fail())
    if is_over:
        await asyncio.wait({task})
    await loop._cancel(task)
    del task
    gc.collect()
    await asyncio.sleep(0)

    assert said == []
