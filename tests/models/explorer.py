"""Every order in which the steps of a model can happen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

State = TypeVar("State")  # a frozen dataclass


class Step(NamedTuple, Generic[State]):
    """Something that can happen next: who does what, and what is then."""

    what: str
    state: State


class Model(ABC, Generic[State]):
    """A protocol as what is at first, what can happen next, and what must never be.

    ``variants`` are subclasses with one thing done wrong; their docstrings say what.
    """

    variants: ClassVar[list[type[Model[Any]]]] = []

    @abstractmethod
    def begin(self) -> State:
        """Return the state at the beginning."""

    @abstractmethod
    def steps(self, state: State) -> Iterator[Step[State]]:
        """Yield all that can happen next; each is atomic."""

    @abstractmethod
    def wrong(self, state: State) -> str | None:
        """Return which promise ``state`` breaks; None if it keeps them all."""

    @abstractmethod
    def is_over(self, state: State) -> bool:
        """Tell whether everything is published that is to be.

        From each state that can be reached such a state must be within reach, too.
        """


class Broken(AssertionError):
    """A model breaks its promise; the text has the shortest way there."""

    def __init__(self, promise: str, trace: list[Step[Any]]) -> None:
        self.promise = promise
        self.steps = [step.what for step in trace]
        super().__init__("\n".join([promise, *_lines(trace)]))


def _lines(trace: list[Step[Any]]) -> Iterator[str]:
    for number, step in enumerate(trace):
        yield f"{number:>4}. {step.what}"
        if number:
            yield from _changes("", trace[number - 1].state, step.state)


def _changes(name: str, before: Any, after: Any) -> Iterator[str]:
    """Say what is other than before, part by part where that has the same parts."""
    if before == after:
        return
    if is_dataclass(after) and type(before) is type(after):
        for part in fields(after):
            dotted = f"{name}.{part.name}".removeprefix(".")
            yield from _changes(dotted, getattr(before, part.name), getattr(after, part.name))
    elif _are_lists(before, after):
        for number, parts in enumerate(zip(before, after, strict=True), 1):
            yield from _changes(f"{name} {number}", *parts)
    else:
        yield f"          {name}: {set(after) if isinstance(after, frozenset) else after}"


def _are_lists(before: Any, after: Any) -> bool:
    """Tell whether both are plain tuples, of the same things."""
    return type(before) is type(after) is tuple and len(before) == len(after)


def explore(model: Model[Any], most: int = 2_000_000) -> int:
    """Take the steps of ``model`` in every order, breadth first; return how many states it has.

    Raises:
        Broken: a state breaks a promise, or the end can't be reached from it.
    """
    ways = _Ways(model.begin())
    while (number := ways.next()) is not None:
        state = ways.states[number]
        if promise := model.wrong(state):
            raise Broken(promise, ways.trace(number))
        for step in model.steps(state):
            ways.add(number, step)
        assert len(ways.states) <= most, "more states than expected: make the model smaller"
    stuck = ways.first_that_cannot_reach(map(model.is_over, ways.states))
    if stuck is not None:
        raise Broken("the end is out of reach from here", ways.trace(stuck))
    return len(ways.states)


class _Ways:
    """The states found so far, and the steps between them."""

    def __init__(self, first: Any) -> None:
        self.states = [first]
        self._numbers = {first: 0}
        self._found_by: list[tuple[int, str]] = [(0, "at the beginning")]
        self._before: list[list[int]] = [[]]  # the states that lead to each
        self._next = 0

    def next(self) -> int | None:
        """Return the number of a state that hasn't been looked at, the nearest first."""
        self._next += 1
        return self._next - 1 if self._next <= len(self.states) else None

    def add(self, number: int, step: Step[Any]) -> None:
        """Note a step from the state with that number."""
        found = self._numbers.setdefault(step.state, len(self.states))
        if found == len(self.states):
            self.states.append(step.state)
            self._found_by.append((number, step.what))
            self._before.append([])
        self._before[found].append(number)

    def trace(self, number: int) -> list[Step[Any]]:
        """Return the shortest way to a state."""
        trace: list[Step[Any]] = []
        while True:
            before, what = self._found_by[number]
            trace.insert(0, Step(what, self.states[number]))
            if number == 0:
                return trace
            number = before

    def first_that_cannot_reach(self, goals: Iterator[bool]) -> int | None:
        """Return the nearest state from which no way leads to a goal."""
        reach = list(goals)
        waiting = deque(number for number, is_goal in enumerate(reach) if is_goal)
        while waiting:
            for before in self._before[waiting.popleft()]:
                if not reach[before]:
                    reach[before] = True
                    waiting.append(before)
        return reach.index(False) if False in reach else None
