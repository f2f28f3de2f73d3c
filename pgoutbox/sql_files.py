"""The SQL files, and what Python has to know of them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Ring(NamedTuple):
    """The ring of slots that the outbox is kept in."""

    period: int  # seconds in which transactions begin in one slot
    slots: int

    @property
    def rest(self) -> int:
        """Seconds from when no transaction begins in a slot until one does again."""
        return self.period * (self.slots - 1)


def sql_root() -> Path:
    """Return the folder of SQL files: packaged in a wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    packaged = package / "sql"
    return packaged if packaged.is_dir() else package.parent / "sql"


@cache
def ring() -> Ring:
    """Return the numbers that ``sql/slots/ring.sql`` has."""
    text = (sql_root() / "slots" / "ring.sql").read_text("utf-8")
    found = re.search(r"select (\d+), (\d+)", text)
    assert found is not None  # noqa: S101 - our file
    return Ring(int(found[1]), int(found[2]))
