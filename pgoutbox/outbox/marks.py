"""Marks: what had been sent when the stream was how long, to go back to if it loses messages."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from pgoutbox.messages.event import LastStored
from pgoutbox.outbox.progress import Holder, Key, Place, Progress

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

_INTERVAL = 1.0  # seconds; what lies between two marks may be sent twice
_REST = 0.3  # seconds; what stood for so long is likelier to be what a copy of the stream has
_THIN_OUT_INTERVAL = 60.0

_COMMIT_TIME = re.compile(rb'"commitTime":"([^"]+)"\}+\Z')


class Mark(NamedTuple):
    """Progress, and the last message that the stream had confirmed by then.

    ``last`` is None before the relay's first message.
    """

    progress: Progress
    last: LastStored | None


class Marks:
    """The marks of one relay, for its leader.

    Every method may raise one of :data:`pgoutbox.database.connection.FAILURES` when the
    connection or the server fails.
    """

    def __init__(self, connection: Connection, relay: str) -> None:
        self._connection = connection
        self._relay = relay
        self._kept_at = 0.0  # of the monotonic clock
        self._thinned_out_at = 0.0

    async def keep(self, progress: Progress, last: LastStored | None, *, since: float) -> None:
        """Keep ``progress`` as it stands recorded ``since`` then, unless the last mark is new.

        Times are of the monotonic clock.
        """
        now = time.monotonic()
        if now - self._kept_at < _INTERVAL and now - since < _REST:
            return
        thins_out = now - self._thinned_out_at > _THIN_OUT_INTERVAL
        await self._connection.execute(
            "select pgoutbox.keep_mark($1, $2, $3, $4)",
            self._relay,
            json.dumps(
                progress.to_json()
                | {"settled": progress.settled, "holders": [h[:2] for h in progress.holders]}
                | {"place": progress.place and [str(progress.place.snapshot), *progress.place[1:]]}
            ),
            to_json(last),
            thins_out,
        )
        self._kept_at = now
        self._thinned_out_at = now if thins_out else self._thinned_out_at

    async def newest_first(self) -> list[Mark]:
        """Return all marks."""
        rows = await self._connection.fetch(
            "select m.progress, m.last_stored from pgoutbox.mark m where m.relay = $1"
            " order by m.sequence desc",
            self._relay,
        )
        return [
            Mark(_progress(json.loads(row["progress"])), from_json(row["last_stored"]))
            for row in rows
        ]

    async def drop_behind(self, mark: Mark | None) -> None:
        """Drop the marks that were made after ``mark``, which may be None: all of them."""
        await self._connection.execute(
            "delete from pgoutbox.mark where relay = $1 and sequence > $2",
            self._relay,
            -1 if mark is None else mark.last.sequence if mark.last else 0,
        )
        self._kept_at = 0.0

    async def begin_loss(self, stream: str, until: Progress) -> None:
        """Note that the stream has lost some of what is sent ``until`` now."""
        await self._connection.execute(
            "insert into pgoutbox.loss as l (relay, stream, progress) values ($1, $2, $3)"
            " on conflict (relay) do update set stream = excluded.stream,"
            " progress = excluded.progress, noticed_at = excluded.noticed_at, events = null",
            self._relay,
            stream,
            json.dumps(until.to_json()),
        )

    async def open_loss(self) -> tuple[str, Progress] | None:
        """Return the stream that has lost messages, and until where they are being sent again."""
        row = await self._connection.fetchrow(
            "select l.stream, l.progress from pgoutbox.loss l"
            " where l.relay = $1 and l.events is null",
            self._relay,
        )
        return (row["stream"], Progress.from_json(json.loads(row["progress"]))) if row else None

    async def end_loss(self, events: int) -> None:
        """Note how many events were sent again."""
        await self._connection.execute(
            "update pgoutbox.loss set events = $2 where relay = $1", self._relay, events
        )

    async def keys_of(self, payloads: Mapping[str, bytes]) -> dict[str, Key]:
        """Return where events of the outbox stand, by their ids; others are left out.

        They are looked for by the commit times in their ``payloads``.
        """
        times = {time for payload in payloads.values() if (time := _commit_time(payload))}
        rows = await self._connection.fetch(
            "select o.id::text, o.position, o.seq from pgoutbox.outbox o"
            " where o.committed_at = any ($1) and o.id = any ($2)",
            list(times),
            [found for event_id in payloads if (found := _uuid(event_id))],
        )
        return {row["id"]: Key(row["position"], row["seq"]) for row in rows}


def _progress(values: dict[str, Any]) -> Progress:
    return replace(
        Progress.from_json(values),
        settled=values["settled"],
        holders=tuple(Holder(xid, since) for xid, since in values["holders"]),
        place=Place(UUID(place[0]), *place[1:]) if (place := values["place"]) else None,
    )


def to_json(last: LastStored | None) -> str | None:
    """Return what :func:`from_json` reads."""
    return None if last is None else json.dumps(last._asdict())


def from_json(text: str | None) -> LastStored | None:
    """Return what :func:`to_json` wrote."""
    return None if text is None else LastStored(**json.loads(text))


def _commit_time(payload: bytes) -> datetime | None:
    """Return the commit time of a payload, which may be somebody else's."""
    found = _COMMIT_TIME.search(payload)
    try:
        return datetime.fromisoformat(found[1].decode()) if found else None
    except ValueError:
        return None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
