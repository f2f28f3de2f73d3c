"""The relay as a daemon: start and stop, outages, and what runs between them."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, nullcontext, suppress

from pgoutbox import __version__
from pgoutbox.backoff import Backoff
from pgoutbox.config.settings import Config
from pgoutbox.database import connection as database
from pgoutbox.database.target import target_of
from pgoutbox.errors import (
    ConfigError,
    DatabaseError,
    IdConflict,
    LeadershipLost,
    OutboxReplaced,
    PgoutboxError,
    PublishError,
    Refused,
    SchemaError,
    SchemaMissing,
    StreamLost,
)
from pgoutbox.monitoring import sentry
from pgoutbox.monitoring.monitor import Monitor, OnStored
from pgoutbox.names import Address
from pgoutbox.nats import connect, credentials
from pgoutbox.nats.tenure import Tenure
from pgoutbox.outbox.progress import Progress
from pgoutbox.outbox.reader import Outbox
from pgoutbox.outbox.selection import Filter
from pgoutbox.relay import drain_log
from pgoutbox.relay.backlog import BacklogCount
from pgoutbox.relay.chores import Chores
from pgoutbox.relay.healing import Healing
from pgoutbox.relay.installing import Installer
from pgoutbox.relay.leadership import Leadership
from pgoutbox.relay.loop import Relay
from pgoutbox.relay.outage import Outage
from pgoutbox.relay.parking import Parking, ParkingLog
from pgoutbox.relay.rotation import Rotation
from pgoutbox.relay.signals import stop_on_signal
from pgoutbox.relay.steering import Steering
from pgoutbox.relay.wakeup import WakeUp

log = logging.getLogger("pgoutbox.relay")

_GAP_INTERVAL = 0.1  # seconds between looks at positions that are still missing


def run(config: Config, *, drain: bool = False, until: int | None = None) -> None:
    """Run the relay until SIGTERM or SIGINT; with ``drain``, until nothing is left to send.

    With ``until``, which goes with ``drain``, nothing beyond that position.

    Raises:
        ConfigError, SchemaError: it can't work like this, now or later. For a schema that is
            missing it waits, but with ``drain``.
        Refused: an event can't be published, and ``on_oversize`` is ``stop``.
        DatabaseError, PublishError, AlreadyRunning: only with ``drain``; otherwise it retries.
    """
    target_of(config.database)
    credentials.check_files(config.nats)
    daemon = Daemon(config, drain=drain, until=until)
    # A batch is thousands of objects that reference counting frees: looking for cycles among them
    # and all modules cost a tenth of the relay's time.
    gc.freeze()
    gc.set_threshold(50_000)
    with (
        sentry.reporting(config.monitoring.sentry_dsn),
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        runner.run(daemon.serve())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's event loops, if that is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


class Daemon:
    """Opens what one relay process needs, runs the relay on it, and reopens what fails.

    It runs until ``stop`` is set. Without one it is the process's own: SIGTERM and SIGINT stop it,
    and it reports to systemd. ``on_stored`` is told of messages that the stream has confirmed.
    """

    def __init__(
        self,
        config: Config,
        *,
        drain: bool = False,
        until: int | None = None,
        stop: asyncio.Event | None = None,
        on_stored: OnStored | None = None,
    ) -> None:
        self._config = config
        self._is_draining = drain
        self._until = until
        self._is_guest = stop is not None  # of another process
        self._stop = stop or asyncio.Event()
        self._relay: Relay | None = None
        self._progress = Progress()  # as last known
        self._sent = 0
        self._monitor = Monitor(
            relay=config.relay.name,
            counts_subjects=config.monitoring.metrics_addr is not None,
            template=config.messages.subject,
            on_stored=on_stored,
        )
        names = config.install.actions_by_name
        self._names = [name for name, actions in names.items() if actions]
        filters = names and not config.relay.kv
        self._wanted = Filter(names, self._monitor.skipped) if filters else None
        self._database_outage = Outage(
            "PostgreSQL unavailable; retrying",
            "PostgreSQL available again",
            self._monitor.postgresql,
        )
        self._schema_outage = Outage("waiting for the schema pgoutbox", "the schema is there")
        self._publisher_outage = Outage(
            "NATS unavailable; retrying", "NATS available again", self._monitor.nats
        )
        self._connected: Mapping[str, object] = {}  # where and how, as fields of a log line
        self._said_connected: Mapping[str, object] = {}
        self._parking_log = ParkingLog()
        self._installer = Installer(config, self._monitor, draining=drain)
        self._leadership = Leadership(
            config,
            self._monitor,
            self._database_outage,
            wanted=self._wanted,
            draining=drain,
            until=until,
        )

    @property
    def monitor(self) -> Monitor:
        """What the relay knows of itself."""
        return self._monitor

    async def serve(self) -> None:
        """Relay until a signal comes, or all is sent with ``drain``; see :func:`run`."""
        async with AsyncExitStack() as stack:
            if not self._is_draining:  # which may run beside a relay with the same settings
                await self._open_ports(stack)
                if not self._is_guest:
                    from pgoutbox.monitoring import systemd

                    reporting = systemd.reporting(self._monitor, os.environ)
                    await stack.enter_async_context(reporting)
            await self._serve_until_stopped()

    def _names_to_capture(self) -> list[str] | None:
        """Return bare names of tables that this relay is to capture; None where it isn't to."""
        return self._names if self._config.relay.install else None

    async def _open_ports(self, stack: AsyncExitStack) -> None:
        """Serve probes and metrics, on those addresses that can be bound.

        Raises:
            ConfigError: the package for metrics is missing.
        """
        from pgoutbox.monitoring import web

        config = self._config.monitoring
        routes: dict[Address, dict[str, web.Route]] = {}
        if config.health_addr:
            routes.setdefault(config.health_addr, {}).update(web.probes(self._monitor))
        if config.metrics_addr:
            from pgoutbox.monitoring import metrics

            routes.setdefault(config.metrics_addr, {})["/metrics"] = metrics.route(self._monitor)
        for address, paths in routes.items():
            try:
                await stack.enter_async_context(web.serving(address, paths))
            except ConfigError as error:  # no reason to hold events back
                log.error(
                    "cannot serve probes or metrics; continuing without them",
                    extra={"error": str(error), "hint": error.hint},
                )
                continue
            log.info("listening", extra={"addr": str(address), "paths": " ".join(paths)})

    async def _serve_until_stopped(self) -> None:
        with nullcontext() if self._is_guest else stop_on_signal(self._stop):
            log.info(
                "relay starts",
                extra={
                    "version": __version__,
                    "relay": self._config.relay.name,
                    "event_loop": type(asyncio.get_running_loop()).__module__.partition(".")[0],
                    "topic": self._config.messages.topic,
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
            await self._installer.stop()
            if not serving.cancelled():
                await serving
            log.info("relay stops", extra={"sent": self._sent})

    async def _wind_up(self, serving: asyncio.Task[None]) -> None:
        """Let the relay confirm what it has sent; give up when the grace period is over."""
        self._monitor.is_stopping = True
        if self._relay is not None:
            self._relay.stop()
            await asyncio.wait({serving}, timeout=self._config.relay.grace_period)
            if not serving.done():
                log.warning(
                    "grace period over; unconfirmed events will be sent again at the next start",
                    extra={"grace_period": self._config.relay.grace_period},
                )
        while not serving.done():
            serving.cancel()  # again: the NATS client swallows one that comes while it flushes
            await asyncio.wait({serving}, timeout=1)

    async def _serve(self) -> None:
        """Keep sessions in PostgreSQL, and relay on them; after a failure begin again."""
        backoff = Backoff()
        while True:
            sent = self._sent
            self._monitor.step()
            try:
                await self._installer.run_once()
                async with self._leadership.session() as (outbox, wake_up):
                    self._schema_outage.end()
                    await self._relay_on(outbox, wake_up)
                    return
            except (PgoutboxError, *database.FAILURES) as error:
                self._survive(error)
            if self._sent > sent:
                backoff.reset()
            if self._stop.is_set() or await self._pause(backoff.next()):
                return

    def _survive(self, error: Exception) -> None:
        """Say what has ended the sessions; raise unless the relay begins again."""
        explained = database.explain(error)
        is_schema = isinstance(error, (SchemaMissing, *database.GONE)) or (
            # While it is restored beneath us, it may be anything.
            isinstance(error, SchemaError) and self._leadership.has_led
        )
        if isinstance(error, LeadershipLost):
            log.warning("leadership lost", extra={"error": str(error)})
        elif self._is_draining or not (is_schema or isinstance(explained, DatabaseError)):
            raise explained from error
        elif isinstance(error, OutboxReplaced):
            self._leadership.say_replaced(error)
        elif is_schema:  # new, reset, or being restored
            self._database_outage.end()
            self._schema_outage.begin(explained)
            self._installer.forget()
        else:
            self._database_outage.begin(explained)

    async def _pause(self, seconds: float) -> bool:
        """Sleep; return True at once when the relay is to stop."""
        self._monitor.step(seconds)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        return self._stop.is_set()

    async def _relay_on(self, outbox: Outbox, wake_up: WakeUp) -> None:
        """Keep a connection to NATS, and relay until told to stop or drained."""
        self._progress = await self._leadership.take_over(outbox)
        rotation = Rotation(self._leadership.aside)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(rotation.stop)
            if self._config.monitoring.metrics_addr and not self._is_draining:
                count = BacklogCount(self._leadership.aside, self._config.relay.name, self._monitor)
                await stack.enter_async_context(count.running(lambda: self._progress))
            await self._publish(outbox, wake_up, rotation)

    async def _publish(self, outbox: Outbox, wake_up: WakeUp, rotation: Rotation) -> None:
        """Connect to NATS again and again, and relay."""
        chores = Chores(
            outbox,
            wake_up,
            self._monitor,
            self._config.relay.retention,
            self._config.relay.parked_retention,
            hours=self._config.relay.rotate_between,
            find=self._names_to_capture(),
            found=self._installer.run_in_background,
            empty=rotation.begin,
        )
        steering = Steering(outbox, wake_up, self._monitor)
        healing = Healing(outbox, self._monitor)
        await healing.begin()
        backoff = Backoff()
        tenure = Tenure()
        while True:
            await self._hold_while_paused(steering, outbox, wake_up, chores)
            relay: Relay | None = None
            try:
                async with connect.connect(
                    self._config.nats,
                    self._config.stream,
                    self._config.messages,
                    on_lost=wake_up.interrupt,
                    verify=wake_up.verify,
                    on_wait=self._monitor.step,
                    tenure=tenure,
                    emits=await outbox.emits(),
                ) as connected:
                    self._monitor.nats.connections += 1
                    self._say_connected(connected.description)
                    await outbox.note_method(str(connected.description["method"]))
                    outbox.limit_events(connected.max_payload)
                    stream = str(connected.description.get("stream", ""))
                    parking = Parking(
                        outbox,
                        connected,
                        self._monitor,
                        on_oversize=self._config.relay.on_oversize,
                        largest=await outbox.largest(stream),
                        parking_log=self._parking_log,
                    )
                    self._progress = await healing.check(connected, self._progress)
                    await self._fill(connected, outbox)
                    relay = self._relay_to(
                        connected, outbox, wake_up, chores, steering, healing, parking
                    )
                    await self._run(relay)
                    if not steering.is_paused:
                        return
            except StreamLost as error:
                log.debug("looking for what the stream has", extra={"error": str(error)})
            except (PublishError, Refused, ConfigError) as error:
                self._monitor.id_conflicts += isinstance(error, IdConflict)
                await outbox.note_error(str(error))
                if self._is_draining or not isinstance(error, PublishError):
                    raise
                self._publisher_outage.begin(error)
            if relay is not None:
                self._progress = relay.progress
                if relay.sent:
                    backoff.reset()
            if steering.is_paused:
                continue
            await wake_up.get_up()
            await chores.do(self._progress)  # an outage may last, and slots fill meanwhile
            if await self._pause(backoff.next()):
                return
            wake_up.check()

    async def _fill(self, connected: connect.Connected, outbox: Outbox) -> None:
        """Have a bucket that is new filled with the rows that its table has."""
        table = self._config.relay.kv
        if table is None or not await connected.is_unused():
            return
        if asked := await outbox.ask_for_rows(table):
            log.info("the bucket is new; filling it", extra={"snapshot": str(asked)})

    async def _hold_while_paused(
        self, steering: Steering, outbox: Outbox, wake_up: WakeUp, chores: Chores
    ) -> None:
        """Wait while somebody has paused this relay; the chores go on, without NATS.

        Raises:
            Paused: it is draining.
        """
        await steering.look()
        while steering.is_paused:
            if self._is_draining:
                raise steering.refusal(self._config.relay.name)
            self._database_outage.end()
            await outbox.note_error(None)
            await wake_up.get_up()
            await chores.do(self._progress, self._config.relay.poll_interval)
            self._monitor.step(self._config.relay.poll_interval)
            await wake_up.wait_until_asked(self._config.relay.poll_interval)
            await steering.look()

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
        chores: Chores,
        steering: Steering,
        healing: Healing,
        parking: Parking,
    ) -> Relay:
        async def after_pass(progress: Progress) -> None:
            self._progress = progress
            self._end_outages()
            await outbox.note_error(None)
            gaps = sum(gap.last - gap.first + 1 for gap in progress.gaps)
            self._monitor.passed(gaps, self._config.relay.poll_interval)
            self._parking_log.say_rest()
            await healing.passed(progress)
            await chores.do(progress, self._config.relay.poll_interval)
            if await steering.look_if_due():
                relay.look_at_parked()
            if steering.is_paused:
                relay.stop()

        relay = Relay(
            outbox,
            connected,
            wake_up,
            progress=self._progress,
            poll_interval=self._config.relay.poll_interval,
            record_interval=self._config.relay.record_interval,
            parking=parking,
            chores=after_pass,
            monitor=self._monitor,
            resending=steering.resending,
            landed=healing.landed,
        )
        return relay

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
        name = self._config.relay.name
        async with drain_log.running(self._leadership.aside, name, lambda: relay.recorded):
            await self._drain_quietly(relay)

    async def _drain_quietly(self, relay: Relay) -> None:
        await relay.drain()
        if self._until is not None and relay.progress.gaps:
            log.info("waiting for transactions that are still open", extra={"until": self._until})
        while self._until is not None and relay.progress.gaps and not self._stop.is_set():
            # A transaction is committing there, is prepared, or has rolled back.
            await self._pause(_GAP_INTERVAL)
            await relay.drain()
