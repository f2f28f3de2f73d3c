"""Waking the relay: advisory lock K, notifications, and the relay's last look.

A writer's commit stage shares K, or else notifies (`commit_stage_0`, `commit_unusual_0`); the relay
takes K exclusively before its last look (`WakeUp.fall_asleep`, `Relay._run`). There is no poll
interval in the model, so what isn't notified of is never found.

PostgreSQL's CommitTransaction() makes a transaction visible, then releases its locks, then wakes
listeners; a listener passes over notifications of transactions that it can't see yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from tests.models.explorer import Model, Step

# Of a writer. "unusual" is in commit_unusual_0(), where K couldn't be shared.
WRITING, UNUSUAL, STAGED, VISIBLE, ENDED, GONE = (
    *("writing", "unusual", "staged", "visible", "ended", "rolled back"),
)

# Of the relay. It "pauses" where it couldn't fall asleep, and then looks by itself.
LOOKING, READING, READY, GETTING_UP, GETTING_UP_LATE, PAUSING, RESTING = (
    *("looking", "reading", "ready to fall asleep"),
    *("getting up", "getting up after a look", "pausing", "resting"),
)


@dataclass(frozen=True)
class Writer:
    """A transaction; `has_rolled_back` is to a savepoint from before its commit stage."""

    at: str = WRITING
    shares_k: bool = False
    notifies: bool = False
    has_rolled_back: bool = False
    is_sent: bool = False


@dataclass(frozen=True)
class State:
    """`hint` is WakeUp's; a notification is `on_its_way` from the end of its transaction on."""

    writers: tuple[Writer, ...]
    relay: str = LOOKING
    found: frozenset[int] = frozenset()  # whose events the snapshot of a look shows
    has_k: bool = False
    is_asleep: bool = False  # as the relay has it: WakeUp.is_asleep
    hint: bool = False
    on_its_way: bool = False
    stranger: str = ""  # how somebody else holds K: "shared", "exclusive", or not at all


class SleepLock(Model[State]):
    """The protocol as it is, with some writers and perhaps a stranger who takes K."""

    variants: ClassVar[list[type[Model[State]]]] = []

    def __init__(self, writers: int = 2, *, stranger: bool = True) -> None:
        self._writers = writers
        self._has_stranger = stranger

    def begin(self) -> State:
        """Return a relay that has just begun, and writers that have written."""
        return State((Writer(),) * self._writers)

    def is_over(self, state: State) -> bool:
        """Tell whether all writers have ended and everything is sent."""
        return all(w.at == GONE or (w.at == ENDED and w.is_sent) for w in state.writers)

    def wrong(self, state: State) -> str | None:
        """Look for a commit that nobody tells the sleeping relay of."""
        is_unsent = any(w.at == ENDED and not w.is_sent for w in state.writers)
        is_told = state.hint or state.on_its_way
        if state.relay == RESTING and is_unsent and not is_told:
            return "a wake-up is lost: the relay sleeps beside an event that was committed"
        return None

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Yield what writers, the relay and the stranger can do, and what the network brings."""
        for number, writer in enumerate(state.writers):
            for what, after, notified in self._write(state, writer):
                writers = (*state.writers[:number], after, *state.writers[number + 1 :])
                told = state.on_its_way or notified
                yield Step(
                    f"writer {number + 1} {what}",
                    replace(state, writers=writers, on_its_way=told),
                )
        if state.on_its_way:
            hinted = replace(state, on_its_way=False, hint=True)
            yield Step("a notification reaches the relay", hinted)
        for doing, then in self._relay(state):
            yield Step(f"the relay {doing}", then)
        if self._has_stranger:
            yield from self._stranger(state)

    # Writers: commit_stage.sql, commit_unusual.sql ----------------------------------------------

    def _write(self, state: State, writer: Writer) -> Iterator[tuple[str, Writer, bool]]:
        """Yield what a writer can do, and whether a notification then is on its way."""
        if writer.at == WRITING:
            yield self._try_k(state, writer)
        elif writer.at == UNUSUAL:
            yield self._try_k_again(state, writer)
        elif writer.at == STAGED:
            yield self._become_visible(writer)
            yield "rolls back", Writer(GONE), False
            if not writer.has_rolled_back:
                yield "rolls back to a savepoint", Writer(has_rolled_back=True), False
        elif writer.at == VISIBLE:
            ended = replace(writer, at=ENDED, shares_k=False, notifies=False)
            yield "has released its locks", ended, writer.notifies

    def _is_free(self, state: State) -> bool:
        """Tell whether K can be shared."""
        return not state.has_k and state.stranger != "exclusive"

    def _try_k(self, state: State, writer: Writer) -> tuple[str, Writer, bool]:
        if self._is_free(state):
            return "shares K", replace(writer, at=STAGED, shares_k=True), False
        return "can't share K", replace(writer, at=UNUSUAL), False

    def _try_k_again(self, state: State, writer: Writer) -> tuple[str, Writer, bool]:
        if self._is_free(state):
            return "shares K after all", replace(writer, at=STAGED, shares_k=True), False
        return "will notify", replace(writer, at=STAGED, notifies=True), False

    def _become_visible(self, writer: Writer) -> tuple[str, Writer, bool]:
        return "is visible", replace(writer, at=VISIBLE), False

    # The relay: Relay._run, Relay._send, WakeUp ---------------------------------------------------

    def _relay(self, state: State) -> Iterator[tuple[str, State]]:
        if state.relay == LOOKING:
            yield self._look(state)
        elif state.relay == READING:
            yield from self._go_on(state)
        elif state.relay == READY:
            yield self._fall_asleep(state)
        elif state.relay in (GETTING_UP, GETTING_UP_LATE):
            yield self._get_up(state)
        elif state.relay == PAUSING:
            yield "looks again by itself", replace(state, relay=LOOKING)
        elif state.hint:
            yield self._hear(state)

    def _look(self, state: State) -> tuple[str, State]:
        """Outbox.next_batch(): what is found, the snapshot decides."""
        found = frozenset(
            number
            for number, writer in enumerate(state.writers)
            if writer.at in (VISIBLE, ENDED) and not writer.is_sent
        )
        return "looks", replace(state, relay=READING, found=found)

    def _go_on(self, state: State) -> Iterator[tuple[str, State]]:
        """Relay._publish_all(): after a few events a relay that sleeps goes on sleeping."""
        if not state.found:
            rests = state.is_asleep
            yield "has found nothing", replace(state, relay=RESTING if rests else READY)
            return
        writers = tuple(
            replace(writer, is_sent=writer.is_sent or number in state.found)
            for number, writer in enumerate(state.writers)
        )
        state = replace(state, writers=writers, found=frozenset())
        if state.is_asleep:
            yield "has sent a few, and sleeps on", replace(state, relay=RESTING)
            yield "has sent many", replace(state, relay=GETTING_UP)
            _, ahead = self._look(state)
            yield "has sent a full batch, and looks", replace(ahead, relay=GETTING_UP_LATE)
        else:
            yield "has sent what it found", replace(state, relay=LOOKING)

    def _fall_asleep(self, state: State) -> tuple[str, State]:
        """WakeUp.fall_asleep(): forget hints, try K, and look once more."""
        is_shared = any(w.shares_k for w in state.writers) or state.stranger != ""
        state = replace(state, hint=False)
        if is_shared:
            return "can't have K", replace(state, relay=PAUSING)
        return "takes K", replace(state, relay=LOOKING, has_k=True, is_asleep=True)

    def _get_up(self, state: State) -> tuple[str, State]:
        """WakeUp.get_up()."""
        relay = LOOKING if state.relay == GETTING_UP else READING
        return "releases K", replace(state, relay=relay, has_k=False, is_asleep=False)

    def _hear(self, state: State) -> tuple[str, State]:
        """WakeUp.wait(): the hint is forgotten before the look that it leads to."""
        return "hears it", replace(state, relay=LOOKING, hint=False)

    # A stranger ------------------------------------------------------------------------------

    def _stranger(self, state: State) -> Iterator[Step[State]]:
        if state.stranger:
            yield Step("a stranger releases K", replace(state, stranger=""))
            return
        if not state.has_k:
            yield Step("a stranger shares K", replace(state, stranger="shared"))
            if not any(w.shares_k for w in state.writers):
                yield Step("a stranger takes K", replace(state, stranger="exclusive"))


class LooksBeforeItTakesK(SleepLock):
    """Falls asleep after a look from before it had K."""

    def _fall_asleep(self, state: State) -> tuple[str, State]:
        what, after = super()._fall_asleep(state)
        return what, replace(after, relay=RESTING) if after.has_k else after


class ForgetsHintsAfterItsLook(SleepLock):
    """Forgets the hint when it begins to wait, not before it looks."""

    def _go_on(self, state: State) -> Iterator[tuple[str, State]]:
        for what, after in super()._go_on(state):
            yield what, replace(after, hint=False) if after.relay == RESTING else after


class ChecksKWithoutKeepingIt(SleepLock):
    """The writer looks whether K is free, and doesn't keep it until it is visible."""

    def _try_k(self, state: State, writer: Writer) -> tuple[str, Writer, bool]:
        what, after, notified = super()._try_k(state, writer)
        return what, replace(after, shares_k=False), notified


class NotifiesBeforeItIsVisible(SleepLock):
    """The writer notifies from outside its transaction."""

    def _try_k_again(self, state: State, writer: Writer) -> tuple[str, Writer, bool]:
        what, after, _ = super()._try_k_again(state, writer)
        return what, replace(after, notifies=False), after.notifies


class ReleasesKBeforeItIsVisible(SleepLock):
    """The writer releases K first and becomes visible then, as at the end of a statement."""

    def _become_visible(self, writer: Writer) -> tuple[str, Writer, bool]:
        if writer.shares_k:
            return "releases K", replace(writer, shares_k=False), False
        return super()._become_visible(writer)


class KeepsItsDecisionOverASavepoint(SleepLock):
    """A writer that was rolled back to a savepoint, K and all, doesn't decide again."""

    def _write(self, state: State, writer: Writer) -> Iterator[tuple[str, Writer, bool]]:
        for what, after, notified in super()._write(state, writer):
            is_back = what == "rolls back to a savepoint"
            yield what, replace(after, at=STAGED) if is_back else after, notified


class ThinksThatItSleeps(SleepLock):
    """Releases K after many events, and goes to rest as if it still had it."""

    def _get_up(self, state: State) -> tuple[str, State]:
        what, after = super()._get_up(state)
        return what, replace(after, is_asleep=True)


class DecidesOnlyOnce(SleepLock):
    """A writer that couldn't share K at first neither tries again nor notifies."""

    def _try_k_again(self, state: State, writer: Writer) -> tuple[str, Writer, bool]:
        return "takes no care", replace(writer, at=STAGED), False


SleepLock.variants = [
    LooksBeforeItTakesK,
    ForgetsHintsAfterItsLook,
    ChecksKWithoutKeepingIt,
    NotifiesBeforeItIsVisible,
    ReleasesKBeforeItIsVisible,
    KeepsItsDecisionOverASavepoint,
    ThinksThatItSleeps,
    DecidesOnlyOnce,
]
