"""What a transaction has put into the outbox, read before it commits."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

from pgoutbox.drivers import Rows, run, run_async
from pgoutbox.testing.events import CapturedEvent, CapturedEvents

# The commit stage, which gives a transaction's events their place, is a deferred constraint
# trigger. These statements run it now, and put it back; constraints of the application stay as
# they are.
_COMMIT_STAGE = (
    "set constraints pgoutbox.commit_stage immediate",
    "set constraints pgoutbox.commit_stage deferred",
)

_IS_INSTALLED = "select to_regclass('pgoutbox.outbox') is not null"
# The end of the outbox, and of what this transaction has in it already.
_END = (
    "select case when s.is_called then s.last_value else 0 end,"
    " coalesce((select max(o.seq) from pgoutbox.outbox o join pgoutbox.transaction t"
    "  on t.position = o.position where t.xid = pg_current_xact_id_if_assigned()), 0)"
    " from pgoutbox.position_seq s"
)
# Without parameters, since each driver marks them in another way.
_EVENTS = (
    "select cast(json_build_array("
    "  o.schema_name, o.table_name, o.action, o.data, o.data_old, o.id) as text)"
    " from pgoutbox.outbox o join pgoutbox.transaction t on t.position = o.position"
    " where o.position > {position}"
    " and (o.seq > {seq} or t.xid is distinct from pg_current_xact_id_if_assigned())"
    " order by o.position, o.seq"
)

_AT_BEGIN = (_IS_INSTALLED, *_COMMIT_STAGE, _END)


class Outbox:
    """Reads the outbox over a connection of the application.

    Args:
        connection: of psycopg, psycopg2, asyncpg or any other driver with ``cursor()``; Django's;
            a connection or session of SQLAlchemy, synchronous or not. Its role must be able to
            read the outbox, as the schema's owner and its relays' roles are.

    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def emitted(self) -> _Block:
        """Return a context manager whose value will hold the events of its block.

        ``with`` for synchronous connections, ``async with`` for the others. It reads what the
        connection sees at the end of the block: the events of its own open transaction, and those
        of others that were committed meanwhile. Nothing is committed, sent or removed.

        Raises:
            RuntimeError: pgoutbox isn't installed in this database.

        """
        return _Block(self._connection)


class _Block:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._events = CapturedEvents()
        self._query = ""

    def __enter__(self) -> CapturedEvents:
        for statement in _AT_BEGIN:
            self._note(statement, run(self._connection, statement))
        return self._events

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is not None:  # the transaction may have failed; the test has, at any rate
            return
        for statement in (*_COMMIT_STAGE, self._query):
            self._note(statement, run(self._connection, statement))

    async def __aenter__(self) -> CapturedEvents:
        for statement in _AT_BEGIN:
            self._note(statement, await run_async(self._connection, statement))
        return self._events

    async def __aexit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        for statement in (*_COMMIT_STAGE, self._query):
            self._note(statement, await run_async(self._connection, statement))

    def _note(self, statement: str, rows: Rows) -> None:
        """Take what a statement has returned."""
        if statement == _IS_INSTALLED and not rows[0][0]:
            raise RuntimeError("this database has no schema pgoutbox: run pgoutbox install first")
        if statement == _END:
            position, seq = rows[0]
            self._query = _EVENTS.format(position=position, seq=seq)
        if statement == self._query:
            self._events.set([_event(row[0]) for row in rows])


def _event(text: str) -> CapturedEvent:
    schema, table, action, data, data_old, event_id = json.loads(text)
    return CapturedEvent(schema, table, action, data, data_old, event_id)
