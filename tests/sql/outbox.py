"""The outbox as a relay reads it, for tests that look at one transaction at a time."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import asyncpg

from pgoutbox.messages.envelope import Envelope, Enveloped

UNSENT = "select * from pgoutbox.next_batch($1, '{}', '{}', null, null, 1000000, 1000000000)"
INSTALLATION = "select id from pgoutbox.installation"


class Event(NamedTuple):
    """One event, without what differs from run to run."""

    table: str
    action: str
    new: dict[str, Any]
    old: dict[str, Any]


class Outbox:
    """Reads events through a superuser's or an owner's connection, each once."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._high = 0

    async def rows(self) -> list[asyncpg.Record]:
        """Return what is unsent, as next_batch() gives it, and count it as sent."""
        rows = await self._connection.fetch(UNSENT, self._high)
        self._high = max([row["position"] for row in rows], default=self._high)
        return rows

    async def enveloped(self) -> list[tuple[asyncpg.Record, Enveloped]]:
        """Return what is unsent, each row with the message that the relay makes of it."""
        envelope = Envelope(await self._connection.fetchval(INSTALLATION))
        rows = await self.rows()
        return list(zip(rows, envelope.around(rows), strict=True))

    async def transactions(self) -> list[list[Event]]:
        """Return the unsent events by transaction."""
        found: dict[int, list[Event]] = {}
        for row, enveloped in await self.enveloped():
            message = json.loads(enveloped.payload)
            assert message["table"] == row["table_name"]
            event = Event(message["table"], message["action"], message["data"], message["dataOld"])
            found.setdefault(row["position"], []).append(event)
        return list(found.values())

    async def events(self) -> list[Event]:
        """Return the unsent events."""
        return [event for transaction in await self.transactions() for event in transaction]

    async def payloads(self) -> list[str]:
        """Return the unsent payloads from `data` to `dataOld`, byte for byte."""
        texts = [enveloped.payload.decode() for _, enveloped in await self.enveloped()]
        return [text[text.index('"data":') : text.rindex(',"commitTime":')] for text in texts]


async def forbid_the_slow_way(connection: asyncpg.Connection) -> None:
    """Make every call of capture_slowly() fail."""
    definition = await connection.fetchval(
        "select pg_get_functiondef('pgoutbox.capture_slowly'::regproc)"
    )
    await connection.execute(definition.replace("begin\n", "begin raise 'the slow way';\n", 1))
