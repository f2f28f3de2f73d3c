"""Pausing a relay: it publishes nothing until it is resumed, whoever runs it and wherever."""

from __future__ import annotations

import getpass
import shlex
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import asyncpg

from pgoutbox.database.tables import printable
from pgoutbox.errors import ConfigError, Paused
from pgoutbox.names import suggest

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Say = Callable[[str], None]

NOTIFY = "select pg_catalog.pg_notify('pgoutbox', 'asked')"  # relays look at what is asked of them


@dataclass(frozen=True, slots=True)
class Pause:
    """That a relay publishes nothing now."""

    since: datetime
    by: str  # who paused it, in words
    reason: str | None

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"paused since {self.since:%Y-%m-%d %H:%M:%S} UTC by {self.by}{why}"


async def find(conn: Connection, relay: str) -> Pause | None:
    """Return what is known of a relay's pause; None where it isn't paused."""
    row = await conn.fetchrow(
        "select since, paused_by, reason from pgoutbox.relay_pause where relay = $1", relay
    )
    return Pause(row["since"], row["paused_by"], row["reason"]) if row else None


async def pause(conn: Connection, relay: str, reason: str | None, say: Say) -> dict[str, Any]:
    """Pause a relay; return how it stands now, for machines.

    One that is paused already stays so since then; a new reason replaces the old one.

    Raises:
        ConfigError: no relay has that name.

    """
    async with conn.transaction():
        await require_relay(conn, relay)
        before = await find(conn, relay)
        await conn.execute(_PAUSE, relay, reason, who())
        await conn.execute(NOTIFY)
        now = await find(conn, relay)
    assert now is not None  # noqa: S101 - just written
    already = "already " if before else ""
    say(f"relay {printable(relay)}: {already}{now}; its events wait in the outbox")
    return _state(relay, now, is_news=before != now)


async def resume(conn: Connection, relay: str, say: Say) -> dict[str, Any]:
    """Let a paused relay publish again; return how it stands now, for machines.

    Raises:
        ConfigError: no relay has that name.

    """
    async with conn.transaction():
        await require_relay(conn, relay)
        before = await find(conn, relay)
        await conn.execute("delete from pgoutbox.relay_pause where relay = $1", relay)
        await conn.execute(NOTIFY)
    said = f"resumed; it was {before}" if before else "not paused"
    say(f"relay {printable(relay)}: {said}")
    return _state(relay, None, is_news=before is not None)


def refusal(relay: str, pause: Pause) -> Paused:
    """Return the error for a relay that is to drain, and is paused."""
    return Paused(
        f"the relay {printable(relay)} is {pause}",
        hint=f"Run: pgoutbox resume {printable(shlex.quote(relay))}",
    )


def _state(relay: str, pause: Pause | None, *, is_news: bool) -> dict[str, Any]:
    return {
        "relay": relay,
        "paused": pause is not None,
        "since": pause.since.isoformat() if pause else None,
        "by": pause.by if pause else None,
        "reason": pause.reason if pause else None,
        "changed": is_news,
    }


def who() -> str:
    """Return who runs this command, and where."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


_PAUSE = """
insert into pgoutbox.relay_pause as p (relay, reason, paused_by)
values ($1, $2, pg_catalog.concat('role ', session_user, ', ', $3::text))
on conflict (relay) do update set reason = coalesce(excluded.reason, p.reason)
"""


async def require_relay(conn: Connection, relay: str) -> None:
    """Make sure that a relay has that name: a mistyped one would be accepted without a word.

    Raises:
        ConfigError: none has.

    """
    names = [row["relay"] for row in await conn.fetch("select relay from pgoutbox.progress")]
    if relay in names:
        return
    known = f"Known: {', '.join(map(printable, sorted(names)))}." if names else ""
    raise ConfigError(
        f"there is no relay {printable(relay)} in this database"
        f"{suggest(relay, names, {name: printable(name) for name in names})}",
        hint=f"A relay is known once it has run. {known}".rstrip(),
    )
