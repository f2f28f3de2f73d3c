"""Alembic: ``op.capture_table`` and ``op.release_table``, and schema pgoutbox left alone.

In ``env.py``::

    from pgoutbox.contrib.alembic import include_name

    context.configure(connection=connection, target_metadata=..., include_name=include_name)

Importing it registers the operations. In a migration::

    op.create_table("orders", ...)
    op.capture_table("orders", actions=["insert", "update"])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy
from alembic.operations import MigrateOperation, Operations

from pgoutbox.contrib import statements


def include_name(name: str | None, kind: str, _: Any) -> bool:
    """Leave schema pgoutbox out of autogenerate, which else plans to drop its tables."""
    return (kind, name) != ("schema", "pgoutbox")


@Operations.register_operation("capture_table")
class CaptureTable(MigrateOperation):
    """Capture a table's changes from now on."""

    def __init__(self, statement: str, reverse: MigrateOperation) -> None:
        self.statement = statement
        self._reverse = reverse

    @classmethod
    def capture_table(
        cls,
        operations: Operations,
        table_name: str,
        *,
        schema: str | None = None,
        actions: Sequence[str] | None = None,
        old_values: str | None = None,
    ) -> None:
        """Capture a table; see :func:`pgoutbox.contrib.statements.capture`."""
        table = statements.quoted(table_name, schema)
        statement = statements.capture(table, actions=actions, old_values=old_values)
        operations.invoke(cls(statement, ReleaseTable(table)))

    def reverse(self) -> MigrateOperation:
        """Return the operation that undoes this one."""
        return self._reverse


@Operations.register_operation("release_table")
class ReleaseTable(MigrateOperation):
    """Capture a table's changes no longer; what was captured is sent all the same."""

    def __init__(self, table: str) -> None:
        self.statement = statements.release(table)

    @classmethod
    def release_table(
        cls, operations: Operations, table_name: str, *, schema: str | None = None
    ) -> None:
        """Release a table, before it is dropped for good."""
        operations.invoke(cls(statements.quoted(table_name, schema)))


@Operations.implementation_for(CaptureTable)
@Operations.implementation_for(ReleaseTable)
def _run(operations: Operations, operation: CaptureTable | ReleaseTable) -> None:
    # A colon would begin a parameter.
    operations.execute(sqlalchemy.text(operation.statement.replace(":", r"\:")))
