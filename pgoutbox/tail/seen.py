"""What a tail shows: one event a line, for people or for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgoutbox.names import TableName

COLORS = {"INSERT": "green", "UPDATE": "yellow", "DELETE": "red", "TRUNCATE": "magenta"}


@dataclass(frozen=True, slots=True)
class Seen:
    """An event: captured, at a position of the outbox, or published, at a sequence of a stream.

    ``data`` and ``data_old`` are JSON; ``place`` has the fields that say where the event stands,
    and ``whole`` what programs get.
    """

    time: datetime
    place: Mapping[str, Any]
    schema: str
    table: str
    action: str
    data: str
    data_old: str
    whole: str

    @property
    def name(self) -> str:
        """The table's name as SQL has it; what it is published under where there is no table."""
        if not self.table:
            return str(self.place.get("subject", ""))
        return str(TableName(self.schema, self.table))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are shown."""

    tables: tuple[TableName, ...] = ()  # all where none is named
    actions: tuple[str, ...] = ()  # the same

    def has(self, schema: str, table: str, action: str) -> bool:
        """Tell whether an event is shown."""
        names = (TableName(schema, table), TableName(None, table))
        is_named = not self.tables or any(name in self.tables for name in names)
        return is_named and (not self.actions or action in self.actions)


def parts(seen: Seen) -> tuple[str, str, str]:
    """Return an event as people read it: time of day in UTC, action, and what has changed."""
    moment = f"{seen.time:%H:%M:%S}.{seen.time.microsecond // 1000:03}"
    return moment, f"{seen.action or '?':8}", f"{seen.name} {_change(seen)}".rstrip()


def _change(seen: Seen) -> str:
    if seen.action == "UPDATE":
        before = _differing(seen.data_old, seen.data)
        return f"{seen.data} was {before}" if before else seen.data
    row = seen.data_old if seen.action == "DELETE" else seen.data
    return row if row != "{}" else ""


def _differing(old: str, new: str) -> str:
    """Return those members of one JSON object that another has otherwise, or not at all."""
    try:
        before, now = json.loads(old), json.loads(new)
    except ValueError:  # nested too deeply, or a number too long
        return old
    except RecursionError:
        return old
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return old
    left = {name: value for name, value in before.items() if (name, value) not in now.items()}
    return json.dumps(left, ensure_ascii=False, separators=(",", ":")) if left else ""
