"""Waking the relay: advisory lock K, notifications, and the relay's last look.

A writer's commit stage shares K, or else notifies (`commit_stage_0`, `commit_unusual_0`); the relay
takes K exclusively before its last look (`WakeUp.fall_asleep`, `Relay._run`). Where somebody shares
K for long, another session of the relay requests it and waits (`SleepQueue`, `await_sleep_lock`):
behind a request that waits nobody can share K. There is no poll interval in the model, so what
isn't notified of is never found, but for what those committed who shared K before the request.

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
LOOKING, READING, READY, JOINING, GETTING_UP, GETTING_UP_LATE, PAUSING, RESTING = (
    *("looking", "reading", "ready to fall asleep", "joining the queue"),
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
    straggles: bool = False  # it shared K before the request


@dataclass(frozen=True)
class State:
    """`hint` is WakeUp's; a notification is `on_its_way` from the end of its transaction on."""

    writers: tuple[Writer, ...]
    relay: str = LOOKING
    found: frozenset[int] = frozenset()  # whose events the snapshot of a look shows
    has_k: bool = False
    knows_k: bool = False  # as the relay has it
    is_requested: bool = False  # by the relay's other session, which waits
    has_ended: bool = False  # that request, which the relay doesn't know yet
    is_joined: bool = False  # as the relay has it: SleepQueue.is_joined
    is_dozing: bool = False
    hint: bool = False
    on_its_way: bool = False
    stranger: str = ""  # how somebody else holds K: "shared", "exclusive", or not at all

    @property
    def is_asleep(self) -> bool:
        """WakeUp.is_asleep."""
        return self.knows_k or self.has_stragglers

    @property
    def has_stragglers(self) -> bool:
        """WakeUp.has_stragglers: then the relay also looks by itself."""
        return self.is_dozing and self.is_joined and not self.knows_k


class SleepLock(Model[State]):
    """The protocol as it is, with some writers and perhaps a stranger who takes K."""

    variants: ClassVar[list[type[Model[State]]]] = []

    def __init__(self, writers: int = 2, *, stranger: bool = False) -> None:
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
        is_unsent = any(
            w.at == ENDED and not w.is_sent and not (w.straggles and state.has_stragglers)
            for w in state.writers
        )
        is_told = state.hint or state.on_its_way or (state.is_joined and state.has_ended)
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
        if state.is_requested:  # it has K, and releases that at once, or has waited for long enough
            ended = replace(state, is_requested=False, has_ended=True)
            yield Step("the request for K ends", ended)
        if state.has_ended:
            yield self._learn(state)
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
        return not (state.has_k or state.is_requested or state.stranger == "exclusive")

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
            yield from self._doze(state)
        elif state.relay == JOINING:
            yield self._join(state)
        elif state.relay in (GETTING_UP, GETTING_UP_LATE):
            yield self._get_up(state)
        elif state.relay == PAUSING:
            yield "looks again by itself", replace(state, relay=LOOKING)
        elif state.hint:
            yield self._hear(state)
        elif state.has_stragglers:
            yield "looks again by itself", replace(state, relay=LOOKING)

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
        state = replace(state, hint=False)
        if _is_shared(state) or state.stranger == "exclusive" or state.is_requested:
            return "can't have K", replace(state, relay=PAUSING)
        return "takes K", replace(state, relay=LOOKING, has_k=True, knows_k=True)

    def _doze(self, state: State) -> Iterator[tuple[str, State]]:
        """WakeUp._doze(): K couldn't be had for long, since somebody shares it."""
        if not (_is_shared(state) or state.is_requested):
            return
        state = replace(state, hint=False)
        if state.is_joined:
            yield "dozes on", replace(state, relay=LOOKING, is_dozing=True)
        elif not state.has_ended and _is_shared(state):
            writers = tuple(replace(w, straggles=w.shares_k) for w in state.writers)
            yield "requests K", replace(state, relay=JOINING, is_requested=True, writers=writers)

    def _join(self, state: State) -> tuple[str, State]:
        """SleepQueue.join(): once pg_locks has shown that the request waits."""
        if not state.is_requested:
            return "sees no request", replace(state, relay=PAUSING)
        dozing = replace(state, relay=LOOKING, is_joined=True, is_dozing=True)
        return "sees the request wait", dozing

    def _learn(self, state: State) -> Step[State]:
        """SleepQueue._end()."""
        state = replace(state, has_ended=False, hint=state.hint or state.is_joined)
        return Step("the relay learns that its request has ended", replace(state, is_joined=False))

    def _get_up(self, state: State) -> tuple[str, State]:
        """WakeUp.get_up()."""
        relay = LOOKING if state.relay == GETTING_UP else READING
        return "gets up", replace(state, relay=relay, has_k=False, knows_k=False, is_dozing=False)

    def _hear(self, state: State) -> tuple[str, State]:
        """WakeUp.wait(): the hint is forgotten before the look that it leads to."""
        return "hears it", replace(state, relay=LOOKING, hint=False)

    # A stranger ------------------------------------------------------------------------------

    def _stranger(self, state: State) -> Iterator[Step[State]]:
        if state.stranger:
            yield Step("a stranger releases K", replace(state, stranger=""))
            return
        if not (state.has_k or state.is_requested):
            yield Step("a stranger shares K", replace(state, stranger="shared"))
            if not any(w.shares_k for w in state.writers):
                yield Step("a stranger takes K", replace(state, stranger="exclusive"))


def _is_shared(state: State) -> bool:
    return any(w.shares_k for w in state.writers) or state.stranger == "shared"


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
        return what, replace(after, knows_k=True)


class DecidesOnlyOnce(SleepLock):
    """A writer that couldn't share K at first neither tries again nor notifies."""

    def _try_k_again(self, state: State, writer: Writer) -> tuple[str, Writer, bool]:
        return "takes no care", replace(writer, at=STAGED), False


class DozesWithoutALook(SleepLock):
    """Rests as soon as the request waits, after a look from before that."""

    def _join(self, state: State) -> tuple[str, State]:
        what, after = super()._join(state)
        return what, replace(after, relay=RESTING) if after.is_dozing else after


class BelievesThatItsRequestWaits(SleepLock):
    """Takes the request for made once it is sent, before pg_locks shows it."""

    def _doze(self, state: State) -> Iterator[tuple[str, State]]:
        for what, after in super()._doze(state):
            is_sent = after.relay == JOINING
            believes = replace(after, relay=LOOKING, is_joined=True, is_dozing=True)
            yield what, replace(believes, is_requested=False) if is_sent else after


class EndsItsRequestInSilence(SleepLock):
    """Forgets that it dozes when its request has ended, and doesn't look."""

    def _learn(self, state: State) -> Step[State]:
        what, after = super()._learn(state)
        return Step(what, replace(after, hint=state.hint))


SleepLock.variants = [
    DozesWithoutALook,
    BelievesThatItsRequestWaits,
    EndsItsRequestInSilence,
    LooksBeforeItTakesK,
    ForgetsHintsAfterItsLook,
    ChecksKWithoutKeepingIt,
    NotifiesBeforeItIsVisible,
    ReleasesKBeforeItIsVisible,
    KeepsItsDecisionOverASavepoint,
    ThinksThatItSleeps,
    DecidesOnlyOnce,
]
