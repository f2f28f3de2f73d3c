"""SQLAlchemy: capture a table whenever ``create_all`` makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, event

from pgoutbox.contrib import statements


def capture(
    table: Table, *, actions: Sequence[str] | None = None, old_values: str | None = None
) -> None:
    """Capture a table after SQLAlchemy has created it, and release it before it drops it.

    With ``schema_translate_map``, as for a schema for each tenant, in the translated schema. What
    ``create_all`` finds there already is left as it is. Arguments are those of
    :func:`pgoutbox.contrib.statements.capture`::

        capture(Order.__table__, actions=["insert"])
    """

    def after_create(target: Table, connection: Connection, **_: Any) -> None:
        name = _name(target, connection)
        statement = statements.capture(name, actions=actions, old_values=old_values)
        connection.exec_driver_sql(_escaped(statement, connection))

    def before_drop(target: Table, connection: Connection, **_: Any) -> None:
        statement = statements.release(_name(target, connection))
        connection.exec_driver_sql(_escaped(statement, connection))

    event.listen(table, "after_create", after_create)
    event.listen(table, "before_drop", before_drop)


def _name(table: Table, connection: Connection) -> str:
    return statements.quoted(table.name, connection.schema_for_object(table))


def _escaped(statement: str, connection: Connection) -> str:
    """Double what the driver would take for a parameter."""
    if connection.dialect.paramstyle in ("format", "pyformat"):
        return statement.replace("%", "%%")
    return statement
