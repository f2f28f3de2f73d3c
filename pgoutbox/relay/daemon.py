"""The relay as a daemon: connections, leadership, outages, chores, signals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import asyncpg

from pgoutbox import __version__
from pgoutbox.backoff import Backoff
from pgoutbox.config.settings import Config
from pgoutbox.database import connection as database
from pgoutbox.database import install, schema
from pgoutbox.database.target import target_of
from pgoutbox.errors import (
    AlreadyRunning,
    ConfigError,
    DatabaseError,
    InstallError,
    LeadershipLost,
    PgoutboxError,
    PublishError,
    Refused,
    SchemaError,
)
from pgoutbox.messages.formats import format_of
from pgoutbox.monitoring import metrics, sentry, web
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.names import Address
from pgoutbox.nats import connect, credentials
from pgoutbox.outbox.progress import Progress
from pgoutbox.outbox.reader import Outbox
from pgoutbox.outbox.selection import Filter, Share, share_of
from pgoutbox.relay.chores import Chores
from pgoutbox.relay.loop import Relay
from pgoutbox.relay.outage import Outage
from pgoutbox.relay.signals import stop_on_signal
from pgoutbox.relay.wakeup import WakeUp

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = logging.getLogger("pgoutbox.relay")

_STANDBY_INTERVAL = 1.0  # seconds between a standby's attempts to lead
_GAP_INTERVAL = 0.1  # seconds between looks at positions that are still missing


# Two plans are right for any size of the outbox: its indexes, in order. Statistics, which
# lag behind tables that are filled and truncated all the time, shall not suggest others.
# PostgreSQL 13 doesn't have them all.
_PLANNER = """
select pg_catalog.set_config(name, value, false)
from (values
    ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'), ('enable_hashjoin', 'off'),
    ('enable_mergejoin', 'off'), ('enable_memoize', 'off'),
    ('max_parallel_workers_per_gather', '0'), ('plan_cache_mode', 'force_generic_plan')
) setting (name, value)
where pg_catalog.current_setting(name, true) is not null
"""


_THIS_SESSION = """
select pid, backend_start::text as began from pg_catalog.pg_stat_activity
where pid = pg_catalog.pg_backend_pid()
"""

_END_SESSION = """
select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity
where pid = {} and backend_start::text = '{}'
"""


def run(config: Config, *, drain: bool = False, until: int | None = None) -> None:
    """Run the relay until SIGTERM or SIGINT; with ``drain``, until nothing is left to send.

    With ``until``, which goes with ``drain``, nothing up to that position.

    Raises:
        ConfigError, SchemaError: it can't ever work like this.
        DatabaseError, PublishError, AlreadyRunning: only with ``drain``; the daemon waits and
            tries again.

    """
    credentials.check_files(config.publisher)
    target_of(config.database)
    with sentry.reporting(config.monitoring.sentry_dsn):
        asyncio.run(Daemon(config, drain=drain, until=until).serve())


class Daemon:
    """Holds what one relay process needs, for as long as that lasts, and gets it again."""

    def __init__(self, config: Config, *, drain: bool = False, until: int | None = None) -> None:
        self._config = config
        self._is_draining = drain
        self._until = until
        self._stop = asyncio.Event()
        self._relay: Relay | None = None
        self._sent = 0
        self._monitor = Monitor(
            relay=config.relay.name,
            counts_subjects=config.monitoring.metrics_addr is not None,
            template=config.publisher.subject,
        )
        names = config.install.actions_by_name
        self._wanted = Filter(names, self._monitor.skipped) if names else None
        self._database_outage = Outage("PostgreSQL", self._monitor.postgresql)
        self._publisher_outage = Outage("NATS", self._monitor.nats)
        self._connected: Mapping[str, object] = {}  # where and how, as fields of a log line
        self._said_connected: Mapping[str, object] = {}
        self._is_standing_by = False
        self._listener: tuple[int, str] | None = None  # pid and start of the listening session
        self._is_installed = not config.relay.install
        self._install_outage = Outage("install")
        self._installing: asyncio.Task[None] | None = None
        self._said: set[str] = set()  # by this attempt to install
        self._said_before: set[str] = set()  # by the one before

    async def serve(self) -> None:
        """Relay until a signal comes, or all is sent with ``drain``; see :func:`run`."""
        async with AsyncExitStack() as stack:
            if not self._is_draining:  # which may run beside a relay with the same settings
                await self._open_ports(stack)
            await self._serve_until_stopped()

    async def _open_ports(self, stack: AsyncExitStack) -> None:
        """Answer probes and scrapes from now on, on those addresses that are to be had.

        Raises:
            ConfigError: the package for metrics is missing.

        """
        config = self._config.monitoring
        routes: dict[Address, dict[str, web.Route]] = {}
        if config.health_addr:
            routes.setdefault(config.health_addr, {}).update(web.probes(self._monitor))
        if config.metrics_addr:
            routes.setdefault(config.metrics_addr, {})["/metrics"] = metrics.route(self._monitor)
        for address, paths in routes.items():
            try:
                await stack.enter_async_context(web.serving(address, paths))
            except ConfigError as error:  # no reason to keep events back
                log.error(
                    "probes or metrics get no answer, the relay goes on without",
                    extra={"error": str(error), "hint": error.hint},
                )
                continue
            log.info("answering", extra={"addr": str(address), "paths": " ".join(paths)})

    async def _serve_until_stopped(self) -> None:
        with stop_on_signal(self._stop):
            log.info(
                "relay starts",
                extra={
                    "version": __version__,
                    "relay": self._config.relay.name,
                    "topic": self._config.publisher.topic,
                },
            )
            for note in (*self._config.notes, *target_of(self._config.database).notes):
                log.info(note)
            for warning in self._config.warnings:
                log.warning(warning)
            serving = asyncio.create_task(self._serve())
            stopping = asyncio.create_task(self._stop.wait())
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not serving.done():
                await self._wind_up(serving)
            if self._installing is not None:
                self._installing.cancel()
                await asyncio.gather(self._installing, return_exceptions=True)
            if not serving.cancelled():
                await serving
            log.info("relay stops", extra={"sent": self._sent})

    async def _wind_up(self, serving: asyncio.Task[None]) -> None:
        """Let the relay finish what is on its way; give up when the grace period is over."""
        self._monitor.is_stopping = True
        if self._relay is not None:
            self._relay.stop()
            await asyncio.wait({serving}, timeout=self._config.relay.grace_period)
            if not serving.done():
                log.warning(
                    "grace period is over; unconfirmed events go out again at the next start",
                    extra={"grace_period": self._config.relay.grace_period},
                )
        while not serving.done():
            serving.cancel()  # again, for the NATS client swallows one that comes while it flushes
            await asyncio.wait({serving}, timeout=1)

    async def _serve(self) -> None:
        """Keep a database session, and relay on it; after a failure begin again."""
        backoff = Backoff()
        while True:
            sent = self._sent
            self._monitor.step()
            try:
                if not self._is_installed:
                    await self._install_first()
                async with self._session() as (outbox, wake_up):
                    await self._relay_on(outbox, wake_up)
                    return
            except (ConfigError, SchemaError, PublishError, InstallError, AlreadyRunning):
                raise
            except LeadershipLost as error:
                log.warning("leadership lost", extra={"error": str(error)})
            except (PgoutboxError, *database.FAILURES) as error:
                explained = database.explain(error)
                if self._is_draining or not isinstance(explained, DatabaseError):
                    raise explained from error
                self._database_outage.begin(explained)
            if self._sent > sent:
                backoff.reset()
            if self._stop.is_set() or await self._pause(backoff.next()):
                return

    async def _pause(self, seconds: float) -> bool:
        """Sleep; return True at once when a stop is asked for."""
        self._monitor.step(seconds)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        return self._stop.is_set()

    async def _install_first(self) -> None:
        """Do what ``pgoutbox install`` does, for the tables of the filter.

        A table that can't be captured now keeps no other's events back: the relay goes on, and
        tries again beside it.
        """
        self._monitor.step(self._config.install.lock_wait)
        try:
            await self._install()
        except InstallError as error:
            if self._is_draining or not await self._has_schema():
                raise
            self._install_outage.begin(error)
            self._install_again()
        self._is_installed = True

    async def _has_schema(self) -> bool:
        async with database.session(self._config.database, purpose="install") as connection:
            return (await schema.state(connection)).functions_version is not None

    def _install_again(self) -> None:
        """Capture beside the relay what wasn't there, or couldn't be captured, when it started."""
        if self._installing is None or self._installing.done():
            self._installing = asyncio.create_task(self._keep_installing())

    async def _install(self) -> None:
        self._said_before, self._said = self._said, set()
        async with database.session(self._config.database, purpose="install") as connection:
            await install.install(
                connection,
                (),
                self._config.install,
                self._say_installing,
                warn=self._say_installing if self._is_installed else log.warning,
            )

    def _say_installing(self, words: str) -> None:
        if not self._is_installed:  # else the relay is at work beside it
            self._monitor.step(self._config.install.lock_wait)
        log.log(logging.DEBUG if words in self._said_before else logging.INFO, words)
        self._said.add(words)

    async def _keep_installing(self) -> None:
        while True:
            try:
                await self._install()
                return self._install_outage.end()
            except PgoutboxError as error:
                self._install_outage.begin(error)
            await asyncio.sleep(max(1.0, self._config.install.lock_wait))

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[tuple[Outbox, WakeUp]]:
        """Connect twice, check the schema, and wait until this relay leads."""
        config = self._config
        async with AsyncExitStack() as stack:
            listening = await self._connect(stack, "listener")
            note = await schema.check(listening)
            if note:
                log.warning(note)
            self._monitor.postgresql.connections += 1
            await self._end_predecessor(listening)
            wake_up = WakeUp(listening, config.relay.name)
            await wake_up.start()
            stack.callback(self._monitor.start_over)
            await self._lead(wake_up)
            working = await self._connect(stack, "relay")
            await working.execute(_PLANNER)
            outbox = Outbox(
                working,
                format_of(
                    config.publisher,
                    await working.fetchval("select pg_catalog.current_database()"),
                ),
                relay=config.relay.name,
                batch_events=config.relay.batch_events,
                batch_bytes=config.relay.batch_bytes,
                wanted=self._wanted,
                share=await self._share(working),
                until=self._until,
            )
            yield outbox, wake_up

    async def _share(self, working: Connection) -> Share | None:
        """Return what this relay takes of the outbox.

        Raises:
            ConfigError: it names tables that aren't captured, and did not so before.

        """
        config = self._config.relay
        share = share_of(config)
        noted = await working.fetchval(
            "select p.share from pgoutbox.progress p where p.relay = $1", config.name
        )
        if share is not None and noted != config.share:
            await share.check(working)
        return share

    async def _connect(self, stack: AsyncExitStack, purpose: str) -> Connection:
        connection = await database.connect(
            self._config.database, purpose=f"{purpose} {self._config.relay.name}", primary=True
        )

        async def close() -> None:
            with suppress(*database.FAILURES):
                await connection.close(timeout=2)
            connection.terminate()

        stack.push_async_callback(close)
        return connection

    async def _end_predecessor(self, listening: Connection) -> None:
        """End our earlier listening session if the server still believes in it.

        After a connection was cut without a word it may, for hours, and with it hold the leader
        lock against us.
        """
        row = await listening.fetchrow(_THIS_SESSION)
        if self._listener is not None:
            await listening.execute(_END_SESSION.format(*self._listener))
        assert row is not None  # noqa: S101 - a session sees itself
        self._listener = (int(row["pid"]), row["began"])

    async def _lead(self, wake_up: WakeUp) -> None:
        """Return once this relay holds the leader lock."""
        name = self._config.relay.name
        while not await wake_up.try_lead():
            if self._is_draining:
                raise AlreadyRunning(
                    f"a relay named {name!r} is already running, and sends what there is",
                    hint="See `pgoutbox status`; give another --name for a relay of its own.",
                )
            if not self._is_standing_by:
                log.info("another relay leads; standing by", extra={"relay": name})
                self._is_standing_by = True
            self._database_outage.end()
            self._monitor.stand_by()
            self._monitor.step()
            wake_up.check()
            await asyncio.sleep(_STANDBY_INTERVAL)
        self._is_standing_by = False

    async def _begin_after(self, outbox: Outbox) -> bool:
        """Begin where the relays named by ``--begin-after`` have ended, once they have.

        False where a stop is asked for meanwhile.

        Raises:
            ConfigError: they haven't all ended at the same place, or one never was.

        """
        config = self._config.relay
        is_waiting = False
        while problem := await outbox.begin_after(config.begin_after, config.share):
            kind, _, what = problem.partition(" ")
            if kind != "running" or self._is_draining:
                raise _beginning_wrong(kind, what)
            if not is_waiting:
                log.info("waiting for another relay to end", extra={"relay": what})
                is_waiting = True
            self._database_outage.end()
            self._monitor.stand_by()
            if await self._pause(_STANDBY_INTERVAL):
                return False
        return True

    async def _relay_on(self, outbox: Outbox, wake_up: WakeUp) -> None:
        """Keep a connection to NATS, and relay until told to stop or drained."""
        config = self._config.relay
        if config.begin_after and not await self._begin_after(outbox):
            return
        progress = await outbox.lead()
        before = await outbox.take_share(config.share)
        self._monitor.take_lead()
        share = {"share": config.share} if config.share else {}
        log.info("leading", extra={"relay": config.name, **share, "high": progress.high})
        if before is not None:
            log.warning(
                "this relay publishes other events from now on; what it has passed over it never"
                " will",
                extra={"before": before or "everything", "now": config.share or "everything"},
            )
        chores = Chores(
            outbox,
            wake_up,
            self._monitor,
            self._config.relay.retention,
            find=self._wanted.names if self._wanted and self._config.relay.install else [],
            found=self._install_again,
        )
        backoff = Backoff()
        while True:
            relay: Relay | None = None
            try:
                async with connect.connect(
                    self._config.publisher,
                    on_lost=wake_up.interrupt,
                    verify=wake_up.verify,
                    on_wait=self._monitor.step,
                ) as connected:
                    self._monitor.nats.connections += 1
                    self._say_connected(connected.description)
                    await outbox.note_method(str(connected.description["method"]))
                    relay = self._relay_to(connected, outbox, wake_up, progress, chores)
                    return await self._run(relay)
            except Refused:
                raise
            except PublishError as error:
                if self._is_draining:
                    raise
                self._publisher_outage.begin(error)
            if relay is not None:
                progress = relay.progress
                if relay.sent:
                    backoff.reset()
            await wake_up.get_up()
            await chores.do(progress)  # an outage may last, and others look on
            if await self._pause(backoff.next()):
                return
            wake_up.check()

    def _say_connected(self, description: Mapping[str, object]) -> None:
        """Log a new connection; in an outage only once it is over, and if it is another one."""
        self._connected = description
        if not self._publisher_outage.is_on:
            log.info("connected to NATS", extra=description)
            self._said_connected = description

    def _end_outages(self) -> None:
        self._database_outage.end()
        if self._publisher_outage.is_on:
            self._publisher_outage.end()
            if self._connected != self._said_connected:
                self._say_connected(self._connected)

    def _relay_to(
        self,
        connected: connect.Publisher,
        outbox: Outbox,
        wake_up: WakeUp,
        progress: Progress,
        chores: Chores,
    ) -> Relay:
        async def after_pass(progress: Progress) -> None:
            self._end_outages()
            gaps = sum(gap.last - gap.first + 1 for gap in progress.gaps)
            self._monitor.passed(gaps, self._config.relay.poll_interval)
            await chores.do(progress, self._config.relay.poll_interval)

        return Relay(
            outbox,
            connected,
            wake_up,
            progress=progress,
            poll_interval=self._config.relay.poll_interval,
            on_oversize=self._config.relay.on_oversize,
            chores=after_pass,
            monitor=self._monitor,
        )

    async def _run(self, relay: Relay) -> None:
        self._relay = relay
        if self._stop.is_set():
            relay.stop()
        try:
            await (self._drain(relay) if self._is_draining else relay.run())
        finally:
            self._sent += relay.sent
            self._relay = None

    async def _drain(self, relay: Relay) -> None:
        await relay.drain()
        while self._until is not None and relay.progress.gaps and not self._stop.is_set():
            # Somebody is about to commit there, has prepared to, or has given it up.
            await self._pause(_GAP_INTERVAL)
            await relay.drain()


def _beginning_wrong(kind: str, what: str) -> PgoutboxError:
    if kind == "running":
        return AlreadyRunning(f"the relay {what!r} still runs", hint="Stop it first.")
    if kind == "unknown":
        return ConfigError(
            f"--begin-after names {what!r}, and no relay of that name has any progress",
            hint="`pgoutbox status` lists them.",
        )
    return ConfigError(
        "the relays that --begin-after names have ended at different places",
        hint=f"Run each once more, with --drain --until {what}, to bring them to the same.",
    )
