"""Waiting until the relays that run have sent everything."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import asyncpg

from pgoutbox.database.tables import printable
from pgoutbox.errors import InstallError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_INTERVAL = 0.5  # seconds
_PATIENCE = 10.0  # seconds, for a standby to take over

_LEFT = """
select r.relay, b.events, r.is_led,
    exists (select from pgoutbox.relay_pause s where s.relay = r.relay) as is_paused
from (
    select p.relay, pgoutbox.is_led(p) as is_led from pgoutbox.progress p
    union all select 'default', false where not exists (select from pgoutbox.progress)
) r
cross join lateral pgoutbox.backlog(r.relay) b
where b.events > 0
order by r.relay
"""


async def require_relays(conn: Connection) -> None:
    """Make sure that whatever is unsent has a relay that sends it.

    Raises:
        InstallError: nobody runs one of the relays, or it is paused.

    """
    for row in await conn.fetch(_LEFT):
        _require(row, is_led=row["is_led"])


async def wait(conn: Connection, show: Callable[[int], None]) -> None:
    """Wait until every relay has sent everything; ``show`` is told how many events are left.

    Raises:
        InstallError: nobody runs one of the relays any more, or it is paused.

    """
    led_at = time.monotonic()
    while rows := await conn.fetch(_LEFT):
        show(sum(row["events"] for row in rows))
        if all(row["is_led"] for row in rows):
            led_at = time.monotonic()
        for row in rows:
            _require(row, is_led=row["is_led"] or time.monotonic() - led_at < _PATIENCE)
        await asyncio.sleep(_INTERVAL)
    show(0)


def _require(row: asyncpg.Record, *, is_led: bool) -> None:
    name = printable(row["relay"])
    quoted = printable(shlex.quote(row["relay"]))
    what = "1 unsent event" if row["events"] == 1 else f"{row['events']:,} unsent events"
    if row["is_paused"]:
        raise InstallError(
            f"relay {name} is paused, with {what}", hint=f"Run: pgoutbox resume {quoted}"
        )
    if not is_led:
        raise InstallError(
            f"nobody runs relay {name}, which has {what}",
            hint=f"Run it; or forget it: pgoutbox uninstall --relay {quoted}",
        )
