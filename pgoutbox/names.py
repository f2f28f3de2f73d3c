"""Names that several packages share: tables, shards, addresses, hours, actions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

ACTIONS = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")


class Address(NamedTuple):
    """An address to listen on; an empty host means all interfaces."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class TableName(NamedTuple):
    """A table by name; without a schema, every table of that name."""

    schema: str | None
    table: str

    def __str__(self) -> str:
        return ".".join(_quoted(part) for part in self if part is not None)


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


MOST_SHARDS = 64


class Shard(NamedTuple):
    """One of ``of`` parts of the rows of all tables."""

    number: int  # from 1
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


class Hours(NamedTuple):
    """A part of each day, in minutes since midnight, UTC; past midnight where it ends earlier."""

    begin: int
    end: int

    def __str__(self) -> str:
        return "-".join(f"{minutes // 60:02}:{minutes % 60:02}" for minutes in self)

    def has(self, moment: datetime) -> bool:
        """Tell whether ``moment`` is in it."""
        utc = moment.astimezone(UTC)
        minutes = utc.hour * 60 + utc.minute
        if self.begin < self.end:
            return self.begin <= minutes < self.end
        return minutes >= self.begin or minutes < self.end


def suggest(wrong: str, known: Iterable[str], spelling: Mapping[str, str] | None = None) -> str:
    """Return a question about what may have been meant, or an empty string."""
    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    if not close:
        return ""
    return f"; did you mean {(spelling or {}).get(close[0], close[0])}?"


class Column(NamedTuple):
    """A column that events carry."""

    name: str
    type: str  # PostgreSQL's name of it, without modifiers
    is_not_null: bool


class DescribedTable(NamedTuple):
    """A captured table, and what its events have."""

    schema: str
    table: str
    actions: tuple[str, ...]
    old_values: str  # full or identity
    columns: tuple[Column, ...]
