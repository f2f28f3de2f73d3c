"""Captured events, and how a test looks for one among them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload


@dataclass(frozen=True)
class CapturedEvent:
    """One event, as its message will have it; compared by what the application decides."""

    schema: str
    table: str
    action: str  # INSERT, UPDATE, DELETE or TRUNCATE
    data: dict[str, Any]  # the row after the change; empty after DELETE and TRUNCATE
    data_old: dict[str, Any]  # the row before it; empty for INSERT and TRUNCATE
    id: str = field(compare=False)

    def __str__(self) -> str:
        rows = [json.dumps(row, ensure_ascii=False) for row in (self.data_old, self.data) if row]
        return f"{self.action} {self.schema}.{self.table} {' -> '.join(rows)}".rstrip()


class CapturedEvents(Sequence[CapturedEvent]):
    """The events of a block, in the order in which they will be published."""

    def __init__(self) -> None:
        self._events: list[CapturedEvent] | None = None  # not read yet

    def of(self, table: str, action: str | None = None) -> list[CapturedEvent]:
        """Return the events of one table, in order.

        Args:
            table: its name, with its schema (``billing.invoices``) or without.
            action: only these, such as ``UPDATE``; any case.

        """
        return [event for event in self if _matches(event, table, action)]

    def one(self, table: str, action: str | None = None) -> CapturedEvent:
        """Return the only event of a table.

        Raises:
            AssertionError: there is none, or several; it shows all that there are.

        """
        found = self.of(table, action)
        if len(found) != 1:
            what = f"event of {table}" if action is None else f"{action.upper()} of {table}"
            raise AssertionError(f"expected one {what}, found {len(found)} among:\n{self}")
        return found[0]

    @property
    def changes(self) -> list[tuple[str, str]]:
        """Action and table of each event, to compare with a list."""
        return [(event.action, event.table) for event in self]

    def set(self, events: Sequence[CapturedEvent]) -> None:
        """Fill in what was read at the end of the block."""
        self._events = list(events)

    @property
    def _read(self) -> list[CapturedEvent]:
        if self._events is None:
            raise RuntimeError("the events are read at the end of the block: look at them after it")
        return self._events

    @overload
    def __getitem__(self, index: int) -> CapturedEvent: ...
    @overload
    def __getitem__(self, index: slice) -> list[CapturedEvent]: ...
    def __getitem__(self, index: int | slice) -> CapturedEvent | list[CapturedEvent]:
        return self._read[index]

    def __iter__(self) -> Iterator[CapturedEvent]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<CapturedEvents {self.changes}>" if self._events is not None else "<not read yet>"

    def __str__(self) -> str:
        return "\n".join(f"  {event}" for event in self) or "  no events"


def _matches(event: CapturedEvent, table: str, action: str | None) -> bool:
    if action is not None and event.action != action.upper():
        return False
    return table in (event.table, f"{event.schema}.{event.table}")
