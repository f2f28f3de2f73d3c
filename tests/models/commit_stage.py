"""The commit stage: positions that tell the order in which transactions depend on one another.

The code that it models: `sql/writer/commit_stage.sql` with its second lap and what
`sql/slow_path/commit_unusual.sql` takes back, and a relay that reads what is visible and unsent, by
position, in one statement (`sql/relay/unsent.sql`). That it knows what is unsent is `gaps.py`.

Three sessions run programs. A row that one of them has written can be written by another one only
once that has ended; a deferred check, such as of a unique key, waits in the same way. Rows that
nobody else writes are left out of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from tests.models.explorer import Model, Step

Program = tuple[str, ...]

# What an application does; `check x` is a deferred one, and is queued at that place.
SIMPLE: Program = ("write x", "commit")
IMMEDIATE: Program = ("write y", "set constraints all immediate", "write x", "commit")
DEFERRED: Program = ("write z", "check x", "commit")
OTHER: Program = ("write y", "commit")


@dataclass(frozen=True)
class Session:
    """What one session has done: the first `done` of its steps."""

    done: int = 0
    position: int = 0  # of the row of its transaction; 0 if there is none
    depends: frozenset[int] = frozenset()  # on the sessions that have to come before it
    writes: frozenset[str] = frozenset()  # rows
    is_visible: bool = False
    has_returned: bool = False  # from COMMIT, to the application


@dataclass(frozen=True)
class State:
    """Sessions, by numbers from 1 on, and what the relay has put into the stream."""

    sessions: tuple[Session, ...]
    last_position: int = 0
    stream: tuple[int, ...] = ()
    reading: tuple[int, ...] | None = None  # between two statements of a read that has two

    @property
    def visible(self) -> frozenset[int]:
        """What a snapshot shows that is taken now."""
        return frozenset(n for n, s in enumerate(self.sessions, 1) if s.is_visible)

    @property
    def returned(self) -> frozenset[int]:
        """Whose COMMIT has returned."""
        return frozenset(n for n, s in enumerate(self.sessions, 1) if s.has_returned)


class CommitStage(Model[State]):
    """The protocol as it is, with a session for each of some programs."""

    variants: ClassVar[list[type[Model[State]]]] = []

    def __init__(self, *programs: Program) -> None:
        programs = programs or (SIMPLE, IMMEDIATE, DEFERRED)
        self._programs = [tuple(self._steps_of(program)) for program in programs]

    def begin(self) -> State:
        """Return sessions that have done nothing."""
        return State((Session(),) * len(self._programs))

    def is_over(self, state: State) -> bool:
        """Tell whether all have committed, and all is in the stream."""
        everybody = frozenset(range(1, len(state.sessions) + 1))
        return state.returned == everybody == frozenset(state.stream)

    def wrong(self, state: State) -> str | None:
        """Look for a transaction in the stream in front of one that it depends on."""
        for place, number in enumerate(state.stream):
            late = state.sessions[number - 1].depends - set(state.stream[:place])
            if late:
                return f"transaction {number} is published before {min(late)}, on which it depends"
        return None

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Yield the next step of each session that doesn't wait, and the relay's."""
        for number, session in enumerate(state.sessions, 1):
            program = self._programs[number - 1]
            if session.done < len(program):
                what = program[session.done]
                after = self._take(state, number, what)
                if after is not None:
                    yield Step(f"transaction {number}: {what}", after)
        yield from self._read(state)

    # Sessions -------------------------------------------------------------------------------------

    def _steps_of(self, program: Program) -> Iterator[str]:
        """Yield the steps of a program: what the application asks for, and what COMMIT does."""
        is_immediate = False
        for what in program:
            if what == "commit":
                yield from self._commit_of(program, is_staged=is_immediate)
            elif what.startswith("set"):
                is_immediate = True
                yield "draw"
            elif what.startswith("write"):
                yield what
                if is_immediate:  # an event that is captured later: the stage runs again
                    yield "draw"

    def _commit_of(self, program: Program, *, is_staged: bool) -> Iterator[str]:
        """Yield what COMMIT does: the second lap puts the stage behind the checks."""
        yield from () if is_staged else ("commit",)
        yield from (what for what in program if what.startswith("check"))
        yield from () if is_staged else ("draw",)
        yield from ("be visible", "return")

    def _take(self, state: State, number: int, what: str) -> State | None:
        """Return the state after a step; None while it has to wait."""
        session = replace(state.sessions[number - 1], done=state.sessions[number - 1].done + 1)
        kind, _, row = what.partition(" ")
        last = state.last_position
        if kind in ("write", "check"):
            if self._is_locked(state, number, row):
                return None
            session = replace(session, depends=session.depends | state.visible)
            if kind == "write":
                session = replace(session, writes=session.writes | {row})
        elif kind == "commit":
            session = replace(session, depends=session.depends | state.returned)
        elif kind == "draw":
            session, last = self._draw(session, last)
        elif kind == "be":
            session = replace(session, is_visible=True)
        else:
            session = replace(session, has_returned=True)
        sessions = (*state.sessions[: number - 1], session, *state.sessions[number:])
        return replace(state, sessions=sessions, last_position=last)

    def _is_locked(self, state: State, number: int, row: str) -> bool:
        return any(
            row in other.writes and not other.is_visible
            for n, other in enumerate(state.sessions, 1)
            if n != number
        )

    def _draw(self, session: Session, last: int) -> tuple[Session, int]:
        """Draw a position; the row of an earlier one is taken back."""
        return replace(session, position=last + 1), last + 1

    # The relay ------------------------------------------------------------------------------------

    def _read(self, state: State) -> Iterator[Step[State]]:
        """unsent(): in one statement, hence by one snapshot."""
        if found := self._unsent(state):
            stream = (*state.stream, *found)
            yield Step(f"the relay publishes {found}", replace(state, stream=stream))

    def _unsent(self, state: State) -> tuple[int, ...]:
        unsent = state.visible - set(state.stream)
        return tuple(sorted(unsent, key=lambda number: state.sessions[number - 1].position))


class DrawsWithItsFirstWrite(CommitStage):
    """The position is a column with a sequence for a default, as that of many outboxes is."""

    def _steps_of(self, program: Program) -> Iterator[str]:
        steps = [what for what in super()._steps_of(program) if what != "draw"]
        yield from (steps[0], "draw", *steps[1:])


class ChecksBehindTheStage(CommitStage):
    """Deferred checks run after the position is drawn: there is no second lap."""

    def _commit_of(self, program: Program, *, is_staged: bool) -> Iterator[str]:
        steps = list(super()._commit_of(program, is_staged=is_staged))
        yield from (what for what in steps[:-2] if not what.startswith("check"))
        yield from (what for what in steps if what.startswith("check"))
        yield from steps[-2:]


class DrawsOnceItIsVisible(CommitStage):
    """The position is given to what is committed already, such as by the relay."""

    def _commit_of(self, program: Program, *, is_staged: bool) -> Iterator[str]:
        steps = [*super()._commit_of(program, is_staged=is_staged)]
        if "draw" in steps:
            steps.remove("draw")
            steps.insert(-1, "draw")
        yield from steps

    def _unsent(self, state: State) -> tuple[int, ...]:
        found = super()._unsent(state)
        return tuple(number for number in found if state.sessions[number - 1].position)


class KeepsItsFirstPosition(CommitStage):
    """An event that is captured after the stage doesn't have it run again."""

    def _draw(self, session: Session, last: int) -> tuple[Session, int]:
        return (session, last) if session.position else super()._draw(session, last)


class PublishesWithoutSorting(CommitStage):
    """The relay publishes what it finds in the order in which it is stored."""

    def _unsent(self, state: State) -> tuple[int, ...]:
        return tuple(sorted(super()._unsent(state)))


class ReadsSlotsOneByOne(CommitStage):
    """The relay reads two slots of the ring with a statement each, so by two snapshots."""

    def _read(self, state: State) -> Iterator[Step[State]]:
        slots = [tuple(n for n in self._unsent(state) if n % 2 == slot) for slot in (0, 1)]
        if state.reading is None:
            yield Step("the relay reads a slot", replace(state, reading=slots[0]))
            return
        stream = (*state.stream, *state.reading, *slots[1])
        yield Step("the relay reads the other", replace(state, stream=stream, reading=None))


class ReadsOnlyAboveTheLast(CommitStage):
    """The relay asks for positions above the highest that it has seen."""

    def _unsent(self, state: State) -> tuple[int, ...]:
        high = max((state.sessions[n - 1].position for n in state.stream), default=0)
        return tuple(n for n in super()._unsent(state) if state.sessions[n - 1].position > high)


CommitStage.variants = [
    DrawsWithItsFirstWrite,
    ChecksBehindTheStage,
    DrawsOnceItIsVisible,
    KeepsItsFirstPosition,
    PublishesWithoutSorting,
    ReadsSlotsOneByOne,
    ReadsOnlyAboveTheLast,
]
