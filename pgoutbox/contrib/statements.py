"""The statements that capture and release a table inside a migration."""

from __future__ import annotations

from collections.abc import Sequence

from pgoutbox.config import values
from pgoutbox.database.print_sql import print_release, print_tables


def capture(
    table: str, *, actions: Sequence[str] | None = None, old_values: str | None = None
) -> str:
    """Return the statement that captures a table.

    Args:
        table: its name, as SQL has it, quoted where it must be.
        actions: of ``insert``, ``update``, ``delete``, ``truncate``; what is not given stays as
            it is, and a new table is captured with all of them.
        old_values: ``full`` or ``identity``.

    Raises:
        ValueError: there is no such action.

    """
    try:
        wanted = values.parse_actions(",".join(actions)) if actions is not None else None
    except ValueError as error:
        raise ValueError(f"{table}: its list of actions {error}") from error
    return print_tables({table: wanted}, old_values).strip().removesuffix(";")


def release(table: str) -> str:
    """Return the statement that releases a table; it does nothing where the table is gone."""
    return print_release(table).strip().removesuffix(";")


def quoted(name: str, schema: str | None = None) -> str:
    """Return a table's name as SQL has it."""
    parts = [part for part in (schema, name) if part]
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)
