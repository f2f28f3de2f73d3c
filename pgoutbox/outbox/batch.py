"""What one read of the outbox returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pgoutbox.messages.event import EventNumber, Message
from pgoutbox.outbox.disk import Sight
from pgoutbox.outbox.progress import Key, Progress
from pgoutbox.outbox.snapshots import Chunk


@dataclass(frozen=True, slots=True)
class Withheld:
    """An event without its rows: it is too large to be worth reading, or can't be read."""

    key: Key
    id: str
    bytes: int  # of its rows as they are stored
    number: EventNumber
    error: str | None  # why it can't be read


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one read of the outbox returned, and the progress at its end.

    Behind its events comes the ``chunk`` of a snapshot that was read in the same transaction.
    Its messages are composed when they are first asked for: meanwhile PostgreSQL may read on.
    """

    compose: Callable[[], Sequence[Message]] = tuple
    keys: Sequence[Key] = ()  # of the messages
    before: Progress
    after: Progress
    is_full: bool = False  # more may be visible than was read
    is_replay: bool = False  # of a plan, sent again in the order of the first time
    has_long_transaction: bool = False  # one of several events, which a restart must not tear
    unflushed: Sight | None = None  # what was read may not be on disk yet
    oldest: float | None = None  # commit time of the first event, seconds since the epoch
    passed: Sequence[Key] = ()  # of all events read, including those that are passed over
    chunk: Chunk | None = None
    withheld: Sequence[Withheld] = ()  # to be set aside before the messages are published

    @cached_property
    def messages(self) -> Sequence[Message]:
        """What is published, in order."""
        return [*self.compose(), *self.chunk.compose()] if self.chunk else self.compose()

    def __len__(self) -> int:
        return len(self.keys) + (self.chunk.size if self.chunk else 0)

    def __bool__(self) -> bool:
        return bool(self.passed) or self.chunk is not None

    def with_chunk(self, chunk: Chunk, sight: Sight) -> Batch:
        """Return the batch with a snapshot's chunk behind its events, of the same ``sight``.

        Nobody knows which transactions made the chunk's rows what they are.
        """
        after = replace(self.after, place=chunk.place)
        unflushed = sight if chunk.size > 0 else self.unflushed
        return replace(self, chunk=chunk, after=after, unflushed=unflushed)

    def key_of(self, index: int) -> Key:
        """Return where a message's event stands; of a snapshot's row, what it comes behind."""
        return self.keys[index] if index < len(self.keys) else Key(self.after.high, 0)

    def upto(self, count: int) -> Progress:
        """Return the progress when only the first ``count`` messages are sent."""
        if count == len(self):
            return self.after
        if count >= len(self.keys):  # a part of a chunk is read again
            return replace(self.after, place=self.before.place)
        end = self.passed.index(self.keys[count])
        keys = self.passed[:end]
        if not keys:
            return self.before
        is_cut = self.passed[end].position == keys[-1].position
        return self.before.after(keys, is_cut=is_cut)

    def before_event(self, key: Key) -> Batch:
        """Return the part of the batch in front of the event at ``key``, one that was read."""
        end = self.passed.index(key)
        passed = self.passed[:end]
        count = len(set(passed).intersection(self.keys))
        is_cut = end > 0 and passed[-1].position == key.position
        return replace(
            self,
            compose=lambda: self.messages[:count],
            keys=self.keys[:count],
            after=self.before.after(passed, is_cut=is_cut),
            is_full=True,
            has_long_transaction=self.has_long_transaction or is_cut,
            passed=passed,
            chunk=None,
            withheld=[event for event in self.withheld if event.key in set(passed)],
        )
