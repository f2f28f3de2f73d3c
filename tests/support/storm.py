"""Faults at random, one after another, on servers that only this storm has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import asyncpg

from pgoutbox.demo.nats_server import NatsServer
from pgoutbox.demo.postgres import PostgresServer
from tests.support import ledger
from tests.support.cluster import ADMIN
from tests.support.nursery import Relay
from tests.support.proxy import Proxy
from tests.support.scene import Scene
from tests.support.streams import nats_client

Fault = Callable[[], Awaitable[None]]

_RELAY_SESSIONS = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and application_name like 'pgoutbox%'
"""


@dataclass
class Storm:
    """What goes wrong for one scene, whose relays go through the proxies where there are some.

    Every choice follows from the scene's seed; when the operating system lets each process run
    doesn't.
    """

    scene: Scene
    postgres: PostgresServer
    nats: Sequence[NatsServer]
    postgres_proxy: Proxy
    nats_proxy: Proxy | None
    relays: list[Relay] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def draw(self) -> random.Random:
        """Where every choice comes from."""
        return self.scene.draw

    async def rage(self, is_over: Callable[[], bool]) -> None:
        """Do one thing after another, until ``is_over``; then let everything recover."""
        faults: list[tuple[Fault, int]] = [
            (self.kill_a_relay, 6),
            (self.stop_a_relay, 3),
            (self.freeze_a_relay, 2),
            (self.add_a_relay, 2),
            (self.end_the_relays_sessions, 3),
            (self.cut_postgres, 3),
            (self.stall_postgres, 1),
            (self.crash_postgres, 1),
            (self.restart_postgres, 1),
            (self.kill_nats, 3),
            (self.restart_nats, 2),
            (self.hold_a_transaction, 3),
            (self.hold_the_slots, 2),
            *(self._faults_of_the_network() if self.nats_proxy else []),
            *([(self.change_the_streams_leader, 8)] if len(self.nats) > 1 else []),
        ]
        await self.add_a_relay()
        while not is_over():
            fault = self.draw.choices(*zip(*faults, strict=True))[0]
            self.counts[fault.__name__] += 1
            await fault()
            await self.scene.pause(0.0, 1.0)
        if not self.relays:
            await self.add_a_relay()

    def _faults_of_the_network(self) -> list[tuple[Fault, int]]:
        return [(self.cut_nats, 3), (self.stall_nats, 1), (self.keep_nats_away, 1)]

    async def add_a_relay(self) -> None:
        """Start a relay with settings of its own; at most three run at once."""
        if len(self.relays) >= 3:
            await self.kill_a_relay()
        draw = self.draw
        self.relays.append(
            await self.scene.relay(
                *("--batch-events", str(draw.choice([1, 7, 50, 500, 2000]))),
                *("--window", str(draw.choice([1, 10, 200, 4000]))),
                *("--poll-interval", draw.choice(["50ms", "200ms", "1s"])),
                *("--ack-timeout", draw.choice(["1s", "2s"])),
            )
        )

    async def kill_a_relay(self) -> None:
        """kill -9, and start another one."""
        await self._taken().kill()
        await self.add_a_relay()

    async def stop_a_relay(self) -> None:
        """SIGTERM, and start another one."""
        relay = self._taken()
        code = await relay.stop()
        # One that was started a moment ago may not listen for the signal yet: that just ends it.
        assert code == 0 or (code == -signal.SIGTERM and not relay.output), (code, relay.output)
        await self.add_a_relay()

    async def freeze_a_relay(self) -> None:
        """SIGSTOP for a while, in which another one may take over."""
        relay = self.draw.choice(self.relays)
        relay.send_signal(signal.SIGSTOP)
        await self.scene.pause(0.2, 5.0)
        relay.send_signal(signal.SIGCONT)

    def _taken(self) -> Relay:
        return self.relays.pop(self.draw.randrange(len(self.relays)))

    async def end_the_relays_sessions(self) -> None:
        """Have the server end all sessions of relays."""
        with contextlib.suppress(*ledger.LOST):
            admin = await asyncpg.connect(self.scene.database.dsn_as(ADMIN))
            try:
                await admin.execute(_RELAY_SESSIONS)
            finally:
                await admin.close()

    async def cut_postgres(self) -> None:
        """Reset the relays' connections to PostgreSQL."""
        self.postgres_proxy.cut()

    async def stall_postgres(self) -> None:
        """Forward nothing between relays and PostgreSQL for a while."""
        await self._stall(self.postgres_proxy)

    async def cut_nats(self) -> None:
        """Reset the relays' connections to NATS."""
        assert self.nats_proxy is not None
        self.nats_proxy.cut()

    async def stall_nats(self) -> None:
        """Forward nothing between relays and NATS for a while."""
        assert self.nats_proxy is not None
        await self._stall(self.nats_proxy)

    async def keep_nats_away(self) -> None:
        """Forward nothing between relays and NATS for some laps of the ring."""
        assert self.nats_proxy is not None
        await self._stall(self.nats_proxy, 5.5, 16.0)

    async def _stall(self, proxy: Proxy, shortest: float = 0.1, longest: float = 3.0) -> None:
        proxy.stall()
        await self.scene.pause(shortest, longest)
        proxy.flow()

    async def crash_postgres(self) -> None:
        """Kill PostgreSQL under everybody, and start it again."""
        self.postgres.kill()
        await self.scene.pause(0.0, 1.0)
        self.postgres.start()

    async def restart_postgres(self) -> None:
        """Restart PostgreSQL as an operator does."""
        self.postgres.restart()

    async def kill_nats(self) -> None:
        """Kill a nats-server, and start it again."""
        server = self.draw.choice(self.nats)
        server.kill()
        await self.scene.pause(0.0, 1.0)
        server.start()

    async def restart_nats(self) -> None:
        """Restart a nats-server as an operator does."""
        self.draw.choice(self.nats).restart()

    async def change_the_streams_leader(self) -> None:
        """Make the leader of a replicated stream step down."""
        with contextlib.suppress(Exception):  # there is no leader just now
            async with nats_client(self.draw.choice(self.nats).url) as client:
                subject = f"$JS.API.STREAM.LEADER.STEPDOWN.{self.scene.stream.topic}"
                json.loads((await client.request(subject, b"", timeout=2)).data)

    async def publish_foreign(self) -> None:
        """Publish into the relays' stream as somebody else, without end."""
        while True:
            with contextlib.suppress(Exception):  # the server has just been killed
                async with nats_client(",".join(server.url for server in self.nats)) as client:
                    while not client.is_closed:
                        await client.publish(f"{self.scene.stream.topic}.foreign", b"")
                        await asyncio.sleep(0.025)
            await asyncio.sleep(0.1)

    async def hold_the_slots(self) -> None:
        """Read the outbox in a transaction that stays open, up to a lap of the ring."""
        with contextlib.suppress(*ledger.LOST):
            owner = await asyncpg.connect(self.scene.database.dsn)
            try:
                await owner.execute("begin; select count(*) from pgoutbox.outbox")
                await self.scene.pause(0.5, 6.0)
            finally:
                owner.terminate()

    async def hold_a_transaction(self) -> None:
        """Leave a transaction open after it has written, while others go on."""
        label = self.scene.book.label()
        with contextlib.suppress(*ledger.LOST):
            owner = await asyncpg.connect(self.scene.database.dsn)
            try:
                await owner.execute(f"begin; {ledger.note(label)}")
                await owner.execute("insert into bulk values (1, 'held')")
                await self.scene.pause(0.5, 3.0)
                self.scene.book.issue(label)
                await owner.execute("commit")
                self.scene.book.confirm(label)
            finally:
                owner.terminate()
