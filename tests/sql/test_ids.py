"""Event ids: the same in SQL and in Python."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import asyncpg

from pgoutbox.messages.envelope import Envelope

_MADE_IN_SQL = """
select
    pgoutbox.event_id($1, xid, position, committed_at, seq) as id,
    seq, xid8send(xid) || int8send(position) || timestamptz_send(committed_at) as id_source
from rows from (
    unnest($2::text[]::xid8[]), unnest($3::bigint[]), unnest($4::timestamptz[]),
    unnest($5::bigint[])
) event (xid, position, committed_at, seq)
"""


async def test_sql_and_python_make_the_same_ids(connection: asyncpg.Connection) -> None:
    draw = random.Random(9562)
    installation = UUID(int=draw.getrandbits(128))
    count = 2_000
    times = [
        datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=draw.randrange(2**53))
        for _ in range(count)
    ]
    rows = await connection.fetch(
        _MADE_IN_SQL,
        installation,
        [str(draw.choice([3, 2**32, 2**64 - 1, draw.getrandbits(64)])) for _ in range(count)],
        [draw.choice([1, 2**63 - 1, draw.getrandbits(40)]) for _ in range(count)],
        times,
        [draw.choice([1, -(2**63), 2**63 - 1, draw.getrandbits(40)]) for _ in range(count)],
    )

    enveloped = Envelope(installation).around(
        (0, row["seq"], "public", "t", "INSERT", b"{}", None, row["id_source"]) for row in rows
    )

    ids = [row["id"] for row in rows]
    assert [event.id for event in enveloped] == [str(event_id) for event_id in ids]
    assert {(event_id.version, event_id.variant) for event_id in ids} == {(8, RFC_4122)}
    assert len({str(event_id)[19] for event_id in ids}) == 4
    assert len(set(ids)) == count
