"""When to look into the outbox again: notifications, the sleep lock, and the poll interval."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from pgoutbox.errors import DatabaseError, OutboxReplaced
from pgoutbox.locks import SLEEP_LOCK
from pgoutbox.relay.sleep_queue import SleepQueue

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

CHANNEL = "pgoutbox"
ASKED = "asked"  # what a command notifies with once it has asked a relay for something

_PROBE_TIMEOUT = 10.0  # seconds
_VERIFIED_FOR = 2.0  # seconds that an answer of the server is good for
_ECHO_TIMEOUT = 1.0  # seconds that a notification of our own may take
_ECHO_TIMEOUT_AGAIN = 0.2  # seconds, after one that didn't come: events wait meanwhile
_PATIENCE = 0.1  # seconds with the sleep lock shared; a writer that commits needs some milliseconds


@dataclass(frozen=True, slots=True)
class Silence:
    """Why notifications don't arrive, and what to do about it."""

    reason: str
    hint: str


_NO_ECHO = Silence(
    "the relay listens, and a notification of its own didn't come back",
    "Is there a transaction-mode pooler between relay and server?",
)


class WakeUp:
    """Listens for notifications and holds the relay's session locks, on a connection of its own.

    A notification is only a hint: what is there to be sent, the outbox tells. ``connect`` opens
    another connection.
    """

    def __init__(
        self,
        connection: Connection,
        relay: str,
        connect: Callable[[], AbstractAsyncContextManager[Connection]],
    ) -> None:
        self._connection = connection
        self._relay = relay
        self._leadership: UUID | None = None
        self._hint = asyncio.Event()
        self._asked = asyncio.Event()
        self._token = secrets.token_hex(8)
        self._heard = asyncio.Event()  # a notification of our own, known by the token
        self._is_listening = False
        self._is_lost = False
        self._verified_at = time.monotonic()
        self._has_lock = False  # the sleep lock
        self._refused_at: float | None = None  # when that was first refused, of late
        self._is_dozing = False
        self._queue = SleepQueue(connect, self._hint.set)

    async def start(self) -> None:
        """Begin to listen; where LISTEN fails, :meth:`probe` says why, and tries again."""
        self._connection.add_termination_listener(self._on_lost)
        await self._listen()

    async def _listen(self) -> Silence | None:
        command = "UNLISTEN"
        try:
            await self._connection.remove_listener(CHANNEL, self._on_notification)
            command = "LISTEN"
            await self._connection.add_listener(CHANNEL, self._on_notification)
        except asyncpg.PostgresError as error:
            self.check()
            hint = "Nothing is lost. LISTEN is tried again by itself."
            return Silence(f"{command} failed: {error}", hint)
        self._is_listening = True
        self._hint.set()  # whoever notified before wasn't heard
        return None

    def _on_notification(self, _: object, __: int, ___: str, payload: object) -> None:
        # Not by the pid that the server told: a pooler makes one up for its client.
        if payload == self._token:
            self._heard.set()
            return
        if payload == ASKED:
            self._asked.set()
        self._hint.set()

    def _on_lost(self, *_: object) -> None:
        self._is_lost = True
        self.interrupt()

    async def try_lead(self) -> UUID | None:
        """Take the lead, for as long as the connection lasts; None where another relay has it."""
        leadership: UUID | None = await self._connection.fetchval(
            "select pgoutbox.lead($1)", self._relay, timeout=_PROBE_TIMEOUT
        )
        self._leadership = leadership
        return leadership

    @property
    def is_asleep(self) -> bool:
        """Whether writers notify, those that come to their commit stage from now on."""
        return self._has_lock or (self._is_dozing and self._queue.is_joined)

    @property
    def has_stragglers(self) -> bool:
        """Whether it is asleep beside transactions that end without notifying.

        When the last of them has ended, it is asleep no more, and a hint comes.
        """
        return self.is_asleep and not self._has_lock

    async def fall_asleep(self) -> bool:
        """Make writers notify from now on; look into the outbox once more before waiting.

        False while a writer is between its decision not to notify and the end of its
        transaction. Only where that takes long the relay falls asleep all the same, beside
        stragglers.
        """
        if not self.is_asleep:
            self._hint.clear()
            self._has_lock = await self._connection.fetchval(
                "select pg_try_advisory_lock($1, $2)", *SLEEP_LOCK, timeout=_PROBE_TIMEOUT
            )
            if self._has_lock:
                self._refused_at = None
            else:
                await self._doze()
        return self.is_asleep

    async def _doze(self) -> None:
        """Wait in line for the sleep lock, if it has been shared for long."""
        now = time.monotonic()
        if self._refused_at is None:
            self._refused_at = now
        is_long = now - self._refused_at >= _PATIENCE
        if is_long and await self._connection.fetchval(_IS_SHARED, *SLEEP_LOCK):
            self._is_dozing = self._queue.is_joined or await self._queue.join(self._connection)

    async def get_up(self) -> None:
        """Let writers commit without notifying again.

        A request that waits for the sleep lock goes on to its end: for some seconds they notify.
        """
        self._is_dozing = False
        self._refused_at = None
        if self._has_lock:
            self._has_lock = False
            await self._connection.execute(
                f"select pg_advisory_unlock({SLEEP_LOCK[0]}, {SLEEP_LOCK[1]})",
                timeout=_PROBE_TIMEOUT,
            )

    async def close(self) -> None:
        """Give up what another connection waits for."""
        await self._queue.close()

    async def wait(self, seconds: float) -> bool:
        """Wait for a hint, at most ``seconds``; tell whether one came.

        Raises:
            DatabaseError: the connection was lost.

        """
        try:
            async with asyncio.timeout(seconds):
                await self._hint.wait()
        except TimeoutError:
            return False
        self.check()
        self._hint.clear()
        return True

    @property
    def is_asked(self) -> bool:
        """Whether a command has asked for something since :meth:`listen_up`."""
        return self._asked.is_set()

    def listen_up(self) -> None:
        """Forget what commands have asked for: it is looked at now."""
        self._asked.clear()

    async def wait_until_asked(self, seconds: float) -> None:
        """Wait until a command asks for something, at most ``seconds``.

        Raises:
            DatabaseError: the connection was lost.

        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        self.check()

    async def probe(self) -> Silence | None:
        """Return why notifications don't arrive; None where they do.

        Also finds a connection that is half open. A session that has heard its own notification is
        spared further ones, which write WAL, until :meth:`doubt`.

        Raises:
            DatabaseError: the connection is dead.

        """
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                return await self._ask_for_echo()
        except TimeoutError:
            raise DatabaseError("the connection to PostgreSQL stopped responding") from None

    async def _ask_for_echo(self) -> Silence | None:
        if self._heard.is_set():
            await self._connection.execute("select")
            return None
        timeout = _ECHO_TIMEOUT
        if not self._is_listening:
            timeout = _ECHO_TIMEOUT_AGAIN
            if silence := await self._listen():
                return silence
        await self._connection.execute(f"notify {CHANNEL}, '{self._token}'")
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._heard.wait()
                return None
        self._is_listening = False
        return _NO_ECHO

    def doubt(self) -> None:
        """Have the next :meth:`probe` find out anew whether notifications arrive."""
        self._heard.clear()

    def interrupt(self) -> None:
        """End a wait now."""
        self._hint.set()
        self._asked.set()

    def check(self) -> None:
        """Raise if the connection is lost, and with it the lead.

        Raises:
            DatabaseError: it is.

        """
        if self._is_lost or self._connection.is_closed():
            raise DatabaseError("the connection to PostgreSQL was lost")

    def verified(self, asked_at: float) -> None:
        """Note that a question was answered that is answered to the leader alone.

        ``asked_at`` is of the monotonic clock.
        """
        self._verified_at = max(self._verified_at, asked_at)

    async def verify(self) -> None:
        """Make sure that this relay still leads, in the outbox that it knows; asks now and then.

        A process that was frozen doesn't know yet what happened meanwhile, but it sees that time
        has passed since it last asked.

        Raises:
            DatabaseError: the connection is lost, and with it the lead.
            OutboxReplaced: the database knows nothing of this leadership any more.

        """
        self.check()
        now = time.monotonic()
        if now - self._verified_at > _VERIFIED_FOR:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                is_known = await self._connection.fetchval(_IS_KNOWN, self._relay, self._leadership)
            if not is_known:
                raise OutboxReplaced("it doesn't know of this leadership")
            self._verified_at = now  # the answer may have waited while this process was frozen


_IS_KNOWN = "select true from pgoutbox.progress p where p.relay = $1 and p.leadership = $2"

# Where another relay has it, writers notify anyway.
_IS_SHARED = """
select exists (
    select from pg_catalog.pg_locks l
    where l.locktype = 'advisory' and l.objsubid = 2 and l.classid = $1 and l.objid = $2
      and l.mode = 'ShareLock' and l.granted
      and l.database = (
          select d.oid from pg_catalog.pg_database d
          where d.datname = pg_catalog.current_database())
)
"""
