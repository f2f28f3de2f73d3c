"""Messages as they are published, read from the stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pgoutbox.config.settings import Config
from pgoutbox.nats import watching
from pgoutbox.nats.watching import Published
from pgoutbox.tail.seen import Seen, Wanted


async def events(
    config: Config, wanted: Wanted, since: datetime | None, *, follow: bool
) -> AsyncIterator[Seen]:
    """Yield messages that are published from ``since`` on, or from now on.

    Raises:
        PublishError: see :func:`pgoutbox.nats.watching.watch`.
    """
    watched = watching.watch(config.nats, config.stream, config.messages, since, follow=follow)
    async for published in watched:
        seen = _seen(published)
        if wanted.has(seen.schema, seen.table, seen.action):
            yield seen


def _seen(published: Published) -> Seen:
    text = published.payload.decode(errors="replace")
    event = _event(text)
    data = {name: event[name] for name in ("data", "dataOld") if name in event}
    shown = {name: json.dumps(row, ensure_ascii=False) for name, row in data.items()}
    return Seen(
        published.time.astimezone(UTC),
        {"subject": published.subject, "sequence": published.sequence},
        str(event.get("schema", "")),
        str(event.get("table", "")),
        str(event.get("action", "")),
        shown.get("data", text),
        shown.get("dataOld", "{}"),
        _whole(published, text),
    )


def _event(text: str) -> Mapping[str, Any]:
    """Return wal-listener's fields of a payload, also inside a CloudEvent; none of any other."""
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if isinstance(event, dict) and "specversion" in event:
        event = event.get("data")
    return event if isinstance(event, dict) and "action" in event else {}


def _whole(published: Published, text: str) -> str:
    """Return what stands around the payload, and that as it is, if it is JSON."""
    head = json.dumps(
        {
            "sequence": published.sequence,
            "time": published.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "subject": published.subject,
            "headers": dict(published.headers),
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )
    payload = text if _event(text) else json.dumps(text, ensure_ascii=False)
    return f'{head[:-1]},"payload":{payload}}}'
