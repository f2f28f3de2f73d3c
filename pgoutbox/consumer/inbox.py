"""Recognising a change that was handled before, in the consumer's own transaction."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from pgoutbox.consumer.change import Change
from pgoutbox.drivers import run, run_async


class Inbox:
    """Remembers which changes a consumer has handled, in a table of the consumer's database.

    The id is written in the transaction that handles the change, so a change is handled if and
    only if it is remembered. :attr:`create` makes the table.

    Args:
        consumer: its name; several may share the table.
        table: the table's name, as SQL has it.

    """

    def __init__(self, consumer: str, table: str = "pgoutbox_inbox") -> None:
        if not re.fullmatch(r"[\w.-]+", consumer):
            raise ValueError(f"the consumer's name {consumer!r} has more than letters, digits, . -")
        self._consumer = consumer
        self._table = table

    @property
    def create(self) -> str:
        """The statement that creates the table if it isn't there."""
        return (
            f"create table if not exists {self._table} (consumer text not null, id uuid not null,"
            " handled_at timestamptz not null default now(), primary key (consumer, id))"
        )

    async def is_new(self, connection: Any, change: Change) -> bool:
        """Remember a change, and return whether it is the first time.

        If another process handles it at the same moment, this waits for it.

        Args:
            connection: of asyncpg, psycopg or SQLAlchemy, asynchronous, in the transaction in
                which the change is handled.
            change: the change.

        """
        return bool(await run_async(connection, self._remember(change)))

    def is_new_sync(self, connection: Any, change: Change) -> bool:
        """Do the same over a synchronous connection."""
        return bool(run(connection, self._remember(change)))

    async def forget(self, connection: Any, days: int = 30) -> None:
        """Forget changes that were handled so long ago: longer than the stream keeps them."""
        await run_async(
            connection,
            f"delete from {self._table} where consumer = '{self._consumer}'"  # noqa: S608
            f" and handled_at < now() - interval '{int(days)} days'",
        )

    def _remember(self, change: Change) -> str:
        # Without parameters, since each driver marks them in another way.
        return (
            f"insert into {self._table} (consumer, id)"  # noqa: S608
            f" values ('{self._consumer}', '{UUID(change.id)}') on conflict do nothing returning 1"
        )
