"""What one relay publishes of the outbox: all of it, some tables, or some of their rows."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import asyncpg

from pgoutbox.config.settings import RelayConfig
from pgoutbox.errors import ConfigError
from pgoutbox.messages.event import EMIT
from pgoutbox.names import ACTIONS, Shard, TableName, suggest

log = logging.getLogger("pgoutbox.relay")


class Filter:
    """wal-listener's filter: a relay that has one passes over the tables that it doesn't name.

    ``actions`` are those wanted of each table, by its bare name; events that are passed over are
    counted in ``skipped``, by table.
    """

    def __init__(self, actions: Mapping[str, Sequence[str]], skipped: Counter[str]) -> None:
        self._actions = actions
        self._skipped = skipped

    def passes(self, table: str, action: str) -> bool:
        """Tell whether an event is wanted, and count it if it isn't."""
        if action == EMIT or self.has(table, action):
            return True
        self._skipped[table] += 1
        return False

    def has(self, table: str, action: str) -> bool:
        """Tell whether it names a table's action."""
        return action in self._actions.get(table, ())


_CAPTURED = """
select coalesce(n.nspname, t.schema_name) as schema, coalesce(c.relname, t.table_name) as table
from pgoutbox.captured_table t
left join pg_catalog.pg_class c on c.oid = t.relation
left join pg_catalog.pg_namespace n on n.oid = c.relnamespace
"""


class Share:
    """What a relay takes of each table; decided when it meets the table, and by that for good.

    Each method that takes a connection may raise one of
    :data:`pgoutbox.database.connection.FAILURES`.
    """

    def __init__(self, config: RelayConfig) -> None:
        self._is_bucket = config.kv is not None
        self._tables = (config.kv,) if config.kv else config.tables
        self._except = config.except_tables
        self._shard = config.shard or Shard(1, 1)
        self._shards = config.shards
        # True for all of a table's events, False for none, the key's columns for a shard's.
        self._known: dict[str, dict[str, bool | list[str]]] = {}
        self._arguments: tuple[str, int, int] = ("{}", *self._shard)

    @property
    def arguments(self) -> tuple[str, int, int]:
        """What ``pgoutbox.next_share`` has to know of it."""
        return self._arguments

    @property
    def shard(self) -> Shard:
        """Which part of the rows it is, of those that are divided."""
        return self._shard

    @property
    def parts(self) -> int:
        """Into how many parts the rows are divided."""
        return self._shard.of

    @property
    def has_unnamed(self) -> bool:
        """Whether it has the events of a table of which not even the name can be read."""
        return not self._tables and self._shard.number == 1

    async def decide(
        self, connection: asyncpg.Connection[asyncpg.Record], tables: Iterable[tuple[str, str]]
    ) -> None:
        """Decide what of each table, by schema and name, is in the share."""
        for schema, table in tables:
            wanted: bool | list[str] = self.has(schema, table)
            if wanted and self._shards:
                wanted = await connection.fetchval(
                    "select pgoutbox.shard_key_of($1, $2, $3)",
                    self._shards,
                    schema,
                    table,
                )
            self._known.setdefault(schema, {})[table] = wanted
        self._arguments = (json.dumps(self._known), *self._shard)

    async def key_of(
        self, connection: asyncpg.Connection[asyncpg.Record], schema: str, table: str
    ) -> list[str] | None:
        """Return the columns by which a table's rows are divided; None where they aren't."""
        await self.decide(connection, [(schema, table)])
        known = self._known[schema][table]
        return known if isinstance(known, list) else None

    def has(self, schema: str, table: str) -> bool:
        """Tell whether the share has any of a table's rows; emitted events have empty names."""
        names = (TableName(schema, table), TableName(None, table))
        if self._tables:
            return any(name in self._tables for name in names)
        return not any(name in self._except for name in names)

    async def check(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Make sure that each table that is named is captured.

        Raises:
            ConfigError: one isn't.

        """
        captured = [TableName(*row) for row in await connection.fetch(_CAPTURED)]
        for name in self._tables or self._except:
            if not any(name in (known, TableName(None, known.table)) for known in captured):
                flag = "--tables" if self._tables else "--except-tables"
                flag = "--kv" if self._is_bucket else flag
                raise ConfigError(
                    f"{flag} names {name}, which isn't a captured table{_meant(name, captured)}",
                    hint=f"Capture it first: pgoutbox install --table {name}",
                )


# A bucket needs each row's key: as the table has it, and in the events of DELETEs. Two rows that
# have the same for a moment would be one entry, and the first to leave takes it along.
_NO_KEY = """
select case
    when pgoutbox.key_columns(c.relation, c.old_values) is null
    then 'it has no primary key, nor another that its events have'
    when c.old_values = 'identity' and r.relreplident = 'n'
    then 'it has REPLICA IDENTITY NOTHING, so its events don''t say which row is deleted'
    when exists (
        select from pg_catalog.pg_index i
        where i.indrelid = c.relation and i.indisprimary and not i.indimmediate
    )
    then 'its primary key is deferrable, so two rows can have the same for a moment'
end as problem, c.actions
from pgoutbox.captured_table c
join pg_catalog.pg_class r on r.oid = c.relation
join pg_catalog.pg_namespace n on n.oid = r.relnamespace
where (n.nspname, r.relname) = ($1, $2)
"""


async def check_bucket(connection: asyncpg.Connection[asyncpg.Record], table: TableName) -> None:
    """Make sure that a bucket can have a table's rows, and say if it will lack some changes.

    Raises:
        ConfigError: its rows have no key that all events have.
    """
    row = await connection.fetchrow(_NO_KEY, *table)
    if row is None:
        return
    if row["problem"]:
        raise ConfigError(
            f"{table} can't be a key-value bucket: {row['problem']}",
            hint="See docs/key-value.md for the keys that a bucket can have.",
        )
    if missing := [action for action in ACTIONS if action not in row["actions"]]:
        log.warning(
            "the bucket will differ from its table, whose changes aren't all captured",
            extra={"table": str(table), "missing": " ".join(missing)},
        )


def _meant(name: TableName, captured: Sequence[TableName]) -> str:
    whole, bare = map(str, captured), [str(TableName(None, known.table)) for known in captured]
    return suggest(str(name), bare if name.schema is None else whole)


def share_of(config: RelayConfig) -> Share | None:
    """Return a relay's share; None where that is the whole outbox."""
    return Share(config) if config.share else None
