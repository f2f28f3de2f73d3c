"""Reading on when PostgreSQL can't read an event: that event is found, and told apart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import asyncpg

Rows = list[asyncpg.Record]

_FIRST = 500  # events; a small backlog isn't read as one, but in parts while others are sent
_FEWER = 4  # times fewer events after a failure; twice as many after each success

# What an event can make a read fail with (errcodes.txt of PostgreSQL): data of a kind that can't be
# converted or parsed, limits such as the depth of the stack, corrupted data, no memory. Anything
# else is about the server, or the schema.
_OF_EVENTS = ("22", "54", "XX")
_OUT_OF_MEMORY = "53200"

READ_FAILURES = (asyncpg.PostgresError, UnicodeDecodeError)


class Reading(NamedTuple):
    """What was read; ``error`` says why the only row has nothing but its key and its names."""

    rows: Rows
    is_full: bool  # as many rows as were asked for
    error: str | None = None


class CarefulReader:
    """Reads more and more events at once, or fewer where one of them makes the read fail."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = min(_FIRST, most)  # events that the next read asks for

    async def read(
        self,
        ask: Callable[[int], Awaitable[Rows]],
        ask_without_rows: Sequence[Callable[[], Awaitable[Rows]]],
    ) -> Reading:
        """Return the rows that ``ask`` returns for a number of events.

        Where the first event alone makes it fail, return what the first of ``ask_without_rows``
        returns that doesn't; they ask for less and less of that event.
        """
        while True:
            limit = self._limit
            try:
                rows = await ask(limit)
            except READ_FAILURES as error:
                if not is_of_an_event(error):
                    raise
                if limit == 1:
                    rows = await _first_answer(ask_without_rows)
                    return Reading(rows, is_full=True, error=reason_of(error))
                self._limit = max(1, limit // _FEWER)
            else:
                is_full = len(rows) == limit
                self._limit = min(2 * limit if is_full else _FIRST, self._most)
                return Reading(rows, is_full)


async def _first_answer(questions: Sequence[Callable[[], Awaitable[Rows]]]) -> Rows:
    for ask in questions[:-1]:
        try:
            return await ask()
        except READ_FAILURES as error:
            if not is_of_an_event(error):
                raise
    return await questions[-1]()


def is_of_an_event(error: asyncpg.PostgresError | UnicodeDecodeError) -> bool:
    """Return True if a read may have failed for what one event is made of."""
    if isinstance(error, UnicodeDecodeError):
        return True
    state = error.sqlstate or ""
    return state[:2] in _OF_EVENTS or state == _OUT_OF_MEMORY


def reason_of(error: asyncpg.PostgresError | UnicodeDecodeError) -> str:
    """Return why an event can't be read."""
    said = " ".join(str(error).split())
    return f"PostgreSQL can't read it: {said}"
