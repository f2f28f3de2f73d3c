"""Which rows and columns of tables are captured, as the flags of ``install`` say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgoutbox.database.schema import literal


@dataclass(frozen=True, slots=True)
class Choice:
    """What ``pgoutbox.capture_table`` takes: None leaves as installed, empty takes back."""

    condition: str | None = None
    columns: Sequence[str] | None = None
    except_columns: Sequence[str] | None = None
    hash_columns: Sequence[str] | None = None

    def __bool__(self) -> bool:
        return any(part is not None for part in self.arguments)

    @property
    def arguments(self) -> tuple[str | Sequence[str] | None, ...]:
        """The values, in the order of the SQL functions' parameters."""
        return (self.condition, self.columns, self.except_columns, self.hash_columns)

    def named(self) -> dict[str, str | None]:
        """Return SQL expressions by the names of the parameters; None for what isn't given."""
        return {
            "condition": None if self.condition is None else literal(self.condition),
            "columns": _array(self.columns),
            "except_columns": _array(self.except_columns),
            "hash_columns": _array(self.hash_columns),
        }


AS_INSTALLED = Choice()


def _array(names: Sequence[str] | None) -> str | None:
    if names is None:
        return None
    return f"array[{', '.join(map(literal, names))}]::pg_catalog.text[]"


def described(choice: str) -> str:
    """Return ``captured_table.choice`` in words; empty for a table of which all is captured."""
    parts: Mapping[str, Any] = json.loads(choice)
    return "; ".join(
        f"{word} {value if isinstance(value, str) else ', '.join(value)}"
        for key, word in _WORDS.items()
        if (value := parts.get(key))
    )


_WORDS = {
    "where": "rows where",
    "columns": "columns",
    "except": "all columns but",
    "hash": "hashed",
}
