"""wal-listener's JSON around rendered rows: id, names and commit time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from pgoutbox.messages.event import EMIT, Emitted


class Enveloped(NamedTuple):
    """An event with wal-listener's JSON around its rows; an emitted one with its own payload."""

    id: str
    payload: bytes
    time: str  # of its commit, as the payload has it
    schema: str
    table: str
    action: str
    emitted: Emitted | None = None


class Envelope:
    """Adds id, names and commit time to rendered rows, in wal-listener's JSON.

    Ids are made as in ``sql/relay/event_id.sql``, from the ``installation`` among others.
    """

    def __init__(self, installation: UUID) -> None:
        self._installation = installation.bytes
        self._names: dict[tuple[str, str, str], bytes] = {}
        self._second: int | None = None  # of the text below
        self._second_text = ""

    def around(self, rows: Iterable[Iterable[Any]]) -> Iterator[Enveloped]:
        """Yield each of ``rows`` of ``pgoutbox.next_batch()`` in its envelope."""
        source, sha256 = None, hashlib.sha256
        for _, seq, schema, table, action, new_row, old_row, its_source, *_ in rows:
            if its_source != source:
                source = its_source
                fixed = self._installation + source
                time = self._time(source)
                end = f',"commitTime":"{time}"}}'.encode()
            digits = sha256(fixed + seq.to_bytes(8, "big", signed=True)).hexdigest()
            event_id = (
                f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}"
                f"-{_VARIANTS[digits[16]]}{digits[17:20]}-{digits[20:32]}"
            )
            if action == EMIT:
                emitted = Emitted.of(new_row)
                yield Enveloped(event_id, emitted.payload, time, schema, table, action, emitted)
                continue
            names = self._names.get((schema, table, action)) or self._named(schema, table, action)
            payload = b"".join((
                b'{"id":"', event_id.encode(), names, new_row or b"{}",
                b',"dataOld":', old_row or b"{}", end,
            ))  # fmt: skip
            yield Enveloped(event_id, payload, time, schema, table, action)

    def of_row(self, event_id: str, names: tuple[str, str, str], row: bytes, time: str) -> bytes:
        """Return the payload for a row without an event; ``names`` are schema, table, action."""
        named = self._names.get(names) or self._named(*names)
        return b'{"id":"%b%b%b,"dataOld":{},"commitTime":"%b"}' % (
            event_id.encode(), named, row, time.encode(),
        )  # fmt: skip

    def _named(self, *names: str) -> bytes:
        texts = (json.dumps(name, ensure_ascii=False) for name in names)
        named = '","schema":{},"table":{},"action":{},"data":'.format(*texts).encode()
        self._names[names] = named  # type: ignore[index]
        return named

    def _time(self, source: bytes) -> str:
        """Return the commit time in RFC 3339: in UTC, without trailing zeros."""
        second, fraction = divmod(_microseconds(source), 1_000_000)
        if second != self._second:
            moment = _EPOCH + timedelta(seconds=second)
            self._second, self._second_text = second, f"{moment:%Y-%m-%dT%H:%M:%S}"
        if fraction % 10:  # the usual case
            return f"{self._second_text}.{fraction:06}Z"
        return f"{self._second_text}.{fraction:06}".rstrip("0").rstrip(".") + "Z"


def commit_time(source: bytes) -> float:
    """Return when the transaction of an ``id_source`` was committed, in seconds since 1970."""
    return _EPOCH.timestamp() + _microseconds(source) / 1e6


def xid_of(source: bytes) -> int:
    """Return the id of the transaction of an ``id_source``."""
    return int.from_bytes(source[:8], "big")


_VARIANTS = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))  # RFC 9562, section 4.1

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL's


def rfc3339(moment: datetime) -> str:
    """Return a time as the payload has it: in UTC, without trailing zeros."""
    text = f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}"
    return text.rstrip("0").rstrip(".") + "Z"


def _microseconds(source: bytes) -> int:
    return int.from_bytes(source[16:], "big", signed=True)
