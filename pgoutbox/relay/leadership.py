"""Leadership: the relay's sessions in PostgreSQL, and which relay of a name publishes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from pgoutbox.config.settings import Config
from pgoutbox.database import connection as database
from pgoutbox.database import pauses, schema
from pgoutbox.database.sessions import Session, Whereabouts
from pgoutbox.errors import AlreadyRunning, ConfigError, OutboxReplaced, PgoutboxError
from pgoutbox.messages.formats import MessageFormat, format_of
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.outbox.progress import Progress
from pgoutbox.outbox.progress_row import OutboxId
from pgoutbox.outbox.reader import Outbox
from pgoutbox.outbox.selection import Filter, Share, check_bucket, share_of
from pgoutbox.outbox.snapshots import Snapshots
from pgoutbox.relay.outage import Outage
from pgoutbox.relay.wakeup import WakeUp

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = logging.getLogger("pgoutbox.relay")

REPLACED = "the outbox isn't the one that this relay knew; beginning anew with what it says"

_STANDBY_INTERVAL = 1.0  # seconds between a standby's attempts to lead

# One plan is right for any size of the outbox: its indexes, in order. Statistics lag behind
# tables that are filled and truncated all the time, and must not suggest another.
# PostgreSQL 13 doesn't have all of these settings.
_PLANNER = """
select pg_catalog.set_config(name, value, false)
from (values
    ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'), ('enable_hashjoin', 'off'),
    ('enable_mergejoin', 'off'), ('enable_memoize', 'off'),
    ('max_parallel_workers_per_gather', '0'), ('plan_cache_mode', 'force_generic_plan')
) setting (name, value)
where pg_catalog.current_setting(name, true) is not null
"""


# Of an outbox without transactions `first` is null.
_BEGINNING = """
select
    exists (select from pgoutbox.progress p where p.relay = $1) as is_known,
    (
        select case when s.is_called then s.last_value else 0 end from pgoutbox.position_seq s
    ) as last,
    (select min(t.position) from pgoutbox.transaction t) as first
"""

_NAME_AND_TIME = """
select pg_catalog.current_database(), extract(epoch from pg_catalog.clock_timestamp())::float8
"""

_THIS_SESSION = """
select pid, backend_start::text as began from pg_catalog.pg_stat_activity
where pid = pg_catalog.pg_backend_pid()
"""

_END_SESSION = """
select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity
where pid = {} and backend_start::text = '{}'
  and application_name = pg_catalog.current_setting('application_name')
"""


class Leadership:
    """Opens the relay's sessions in PostgreSQL, and waits in them until this relay leads.

    A relay that is ``draining`` doesn't wait for another one to end.
    """

    def __init__(
        self,
        config: Config,
        monitor: Monitor,
        outage: Outage,
        *,
        wanted: Filter | None,
        draining: bool,
        until: int | None,
    ) -> None:
        self._config = config
        self._monitor = monitor
        self._outage = outage
        self._wanted = wanted
        self._is_draining = draining
        self._until = until
        self._is_standing_by = False
        self._leadership: UUID | None = None
        self._whereabouts: Whereabouts | None = None
        self._listener: tuple[int, str] | None = None  # pid and start of the listening session
        self.has_led = False
        self._identity: OutboxId | None = None  # of the outbox that this process has led last

    @asynccontextmanager
    async def session(self) -> AsyncIterator[tuple[Outbox, WakeUp]]:
        """Connect twice, check the schema, and wait until this relay leads.

        Raises:
            SchemaError: the database lacks the schema, or has another version of it.
            AlreadyRunning: another relay leads, or one that is to end first, and this one is
                draining.
            Paused: somebody has paused it, and it is draining.
            ConfigError: its share names tables that aren't captured, or the relays named by
                ``--begin-after`` have ended at different positions.
        """
        config = self._config
        async with AsyncExitStack() as stack:
            listening = await self._connect(stack, "listener")
            self._say_connected(listening.whereabouts)
            note = await schema.check(listening)
            if note:
                log.warning(note)
            self._monitor.postgresql.connections += 1
            await self._refuse_to_drain_if_paused(listening)
            await self._end_predecessor(listening)
            wake_up = WakeUp(listening, config.relay.name, self.aside)
            stack.push_async_callback(wake_up.close)
            await wake_up.start()
            stack.callback(self._monitor.start_over)
            share = await self._share(listening)
            if config.relay.begin_after:
                await self._begin_after(listening, wake_up)
            else:
                await self._begin_at(listening)
            await self._lead(wake_up)
            working = await self._connect(stack, "relay", is_proven=True)
            await working.execute(_PLANNER)
            yield await self._outbox(working, share), wake_up

    async def _outbox(self, working: Connection, share: Share | None) -> Outbox:
        config = self._config
        asked_at = time.monotonic()
        row = await working.fetchrow(_NAME_AND_TIME)
        assert row is not None  # noqa: S101 - one row
        name, moment = row
        self._monitor.server_clock.told(moment, asked_at)

        @cache
        def format_with(subject: str | None) -> MessageFormat:
            template = config.messages.subject if subject is None else subject
            return format_of(replace(config.messages, subject=template), name)

        snapshots = Snapshots(
            working, format_with, relay=config.relay.name, wanted=self._wanted, share=share
        )
        return Outbox(
            working,
            format_with(None),
            relay=config.relay.name,
            batch_events=config.relay.batch_events,
            batch_bytes=config.relay.batch_bytes,
            wanted=self._wanted,
            share=share,
            until=self._until,
            query_timeout=config.relay.query_timeout,
            snapshots=snapshots,
        )

    async def _refuse_to_drain_if_paused(self, listening: Connection) -> None:
        name = self._config.relay.name
        pause = await pauses.find(listening, name) if self._is_draining else None
        if pause is not None:
            raise pauses.refusal(name, pause)

    async def _share(self, listening: Connection) -> Share | None:
        """Return this relay's share of the outbox.

        Raises:
            ConfigError: it names tables that aren't captured, and is new; or fills a bucket from a
                table without a key.
        """
        config = self._config.relay
        share = share_of(config)
        noted = await listening.fetchval(
            "select p.share from pgoutbox.progress p where p.relay = $1", config.name
        )
        if share is not None and noted != config.share:
            await share.check(listening)
        if config.kv is not None:
            await check_bucket(listening, config.kv)
        return share

    async def _connect(
        self, stack: AsyncExitStack, purpose: str, *, is_proven: bool = False
    ) -> Session:
        connection = await database.connect(
            self._config.database,
            purpose=f"{purpose} {self._config.relay.name}",
            query_timeout=self._config.relay.query_timeout,
            primary=True,
            is_proven=is_proven,
        )
        stack.push_async_callback(database.close, connection)
        return connection

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[Connection]:
        """Open a session beside those on which the relay leads."""
        async with AsyncExitStack() as stack:
            connection = await self._connect(stack, "aside", is_proven=True)
            await connection.execute(_PLANNER)
            yield connection

    def _say_connected(self, whereabouts: Whereabouts) -> None:
        """Log which server it is of those that the address names, if it is another one."""
        if whereabouts != self._whereabouts:
            log.info("connected to PostgreSQL", extra=asdict(whereabouts))
        self._whereabouts = whereabouts

    async def _end_predecessor(self, listening: Connection) -> None:
        """End our earlier listening session if the server still keeps it.

        Where a connection was cut silently, the server may keep its session for hours, and with
        it the leader lock. A pooler may have lent it to somebody else since, under another name.
        """
        row = await listening.fetchrow(_THIS_SESSION)
        if self._listener is not None:
            await listening.execute(_END_SESSION.format(*self._listener))
        assert row is not None  # noqa: S101 - a session sees itself
        self._listener = (int(row["pid"]), row["began"])

    def say_replaced(self, error: OutboxReplaced) -> None:
        """Say once that this isn't the outbox any more that the relay has led."""
        log.warning(REPLACED, extra={"error": str(error)})
        self._identity = None

    async def _begin_after(self, listening: Connection, wake_up: WakeUp) -> None:
        """Begin where the relays named by ``--begin-after`` have ended, once they have."""
        config = self._config.relay
        said = ""
        while problem := await listening.fetchval(
            "select pgoutbox.begin_after($1, $2, $3)",
            config.name,
            config.begin_after,
            config.share,
        ):
            kind, _, what = problem.partition(" ")
            if kind != "running" or self._is_draining:
                raise _cannot_begin(kind, what)
            if what != said:
                log.info("waiting for another relay to stop", extra={"relay": what})
                said = what
            await self._stand_by(wake_up)

    async def _begin_at(self, listening: Connection) -> None:
        """Begin where ``--begin-at`` says if there is no progress yet, and say so.

        Raises:
            ConfigError: that is beyond the outbox.
        """
        config = self._config.relay
        begin = config.begin_at
        row = await listening.fetchrow(_BEGINNING, config.name)
        assert row is not None  # noqa: S101 - one row
        if row["is_known"]:
            return
        if isinstance(begin, int) and begin > row["last"] + 1:
            raise ConfigError(
                f"--begin-at {begin} is beyond the outbox, whose last position is {row['last']}"
            )
        position = {"oldest": 1, "now": None}.get(str(begin), begin)
        if not await listening.fetchval("select pgoutbox.begin_at($1, $2)", config.name, position):
            return
        replays = begin == "oldest" and row["first"] is not None
        hint = {"hint": "It publishes all that the outbox has; --begin-at now leaves that out."}
        log.info(
            "a new relay begins",
            extra={"relay": config.name, "begin_at": begin, "last_position": row["last"]}
            | (hint if replays else {}),
        )

    async def _lead(self, wake_up: WakeUp) -> None:
        """Return once this relay leads."""
        name = self._config.relay.name
        while (leadership := await wake_up.try_lead()) is None:
            if self._is_draining:
                raise AlreadyRunning(
                    f"a relay named {name!r} is already running",
                    hint="It publishes what is unsent; see `pgoutbox status`. For a second,"
                    " independent relay choose another --name.",
                )
            if not self._is_standing_by:
                log.info("another relay leads; standing by", extra={"relay": name})
                self._is_standing_by = True
            await self._stand_by(wake_up)
        self._is_standing_by = False
        self._leadership = leadership

    async def _stand_by(self, wake_up: WakeUp) -> None:
        """Wait until it is time to look again whether another relay has ended."""
        self._outage.end()
        self._monitor.stand_by()
        self._monitor.step()
        wake_up.check()
        await asyncio.sleep(_STANDBY_INTERVAL)

    async def take_over(self, outbox: Outbox) -> Progress:
        """Become the leader, and return the relay's progress.

        Raises:
            LeadershipLost: another relay has taken over meanwhile.
            OutboxReplaced: this is no outbox yet.
            ConfigError: the progress is beyond ``--until``.
        """
        config = self._config.relay
        assert self._leadership is not None  # noqa: S101 - the session has begun
        progress = await outbox.take_over(self._leadership)
        self.has_led = True
        if self._identity not in (None, outbox.identity):
            log.warning(REPLACED, extra={"error": "it was restored or installed anew"})
        self._identity = outbox.identity
        before = await outbox.take_share(config.share)
        self._monitor.take_lead()
        share = {"share": config.share} if config.share else {}
        log.info("leading", extra={"relay": config.name, **share, "high": progress.high})
        if before is not None:
            log.warning(
                "this relay's share has changed; events it skipped will not be published",
                extra={"before": before or "everything", "now": config.share or "everything"},
            )
        return progress


def _cannot_begin(kind: str, what: str) -> PgoutboxError:
    """Return the error for what ``pgoutbox.begin_after`` answered."""
    if kind == "running":
        return AlreadyRunning(f"the relay {what!r} still runs", hint="Stop it first.")
    if kind == "unknown":
        return ConfigError(
            f"--begin-after names {what!r}, and no relay of that name has any progress",
            hint="`pgoutbox status` lists them.",
        )
    return ConfigError(
        "the relays named by --begin-after ended at different positions",
        hint=f"Run each once more with --drain --until {what}, then start this one again.",
    )
