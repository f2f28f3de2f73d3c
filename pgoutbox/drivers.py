"""Statements over an application's connection, whichever driver or library it is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Rows = Sequence[Sequence[Any]]


def run(connection: Any, statement: str) -> Rows:
    """Run a statement over a synchronous connection; return its rows."""
    if hasattr(connection, "flush") and hasattr(connection, "connection"):  # SQLAlchemy's session
        connection.flush()
        connection = connection.connection()
    if hasattr(connection, "exec_driver_sql"):
        result = connection.exec_driver_sql(statement)
        return result.fetchall() if result.returns_rows else []
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []
    finally:
        cursor.close()


async def run_async(connection: Any, statement: str) -> Rows:
    """Run a statement over an asynchronous connection; return its rows."""
    if hasattr(connection, "run_sync"):  # SQLAlchemy's
        rows: Rows = await connection.run_sync(run, statement)
        return rows
    if hasattr(connection, "fetch"):  # asyncpg's
        rows = await connection.fetch(statement)
        return rows
    cursor = await connection.execute(statement)  # psycopg's
    return await cursor.fetchall() if cursor.description else []
