"""The outbox as its leader sees it, and as one that has lost the lead does."""

from __future__ import annotations

import asyncpg
import pytest

from pgoutbox.config.settings import MessageConfig
from pgoutbox.errors import LeadershipLost
from pgoutbox.messages.event import LastStored
from pgoutbox.messages.formats import format_of
from pgoutbox.outbox import marks
from pgoutbox.outbox.marks import Mark
from pgoutbox.outbox.progress import Progress
from pgoutbox.outbox.reader import Outbox
from tests.conftest import Connect
from tests.support.leading import lead


def _outbox(connection: asyncpg.Connection) -> Outbox:
    return Outbox(
        connection,
        format_of(MessageConfig(), "app"),
        relay="default",
        batch_events=100,
        batch_bytes=2**20,
    )


async def test_former_leader_cannot_move_the_progress(connect: Connect) -> None:
    """Frozen while another one took over, it is told so and changes nothing."""
    connections = [await connect() for _ in range(3)]
    former, leader, next_one = map(_outbox, connections)
    await lead(former, connections[0])
    await former.advance(Progress(5))
    await connections[0].execute("select pg_advisory_unlock_all()")
    assert await lead(leader, connections[1]) == Progress(5)
    await leader.advance(Progress(7))

    with pytest.raises(LeadershipLost):
        await former.advance(Progress(6))

    await connections[1].execute("select pg_advisory_unlock_all()")
    assert await lead(next_one, connections[2]) == Progress(7)


async def test_a_mark_has_the_progress_that_was_recorded_with_its_message(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "_INTERVAL", 0.0)
    outbox = _outbox(connection)
    await lead(outbox, connection)
    confirmed = [LastStored("s", "then", number, str(number)) for number in range(1, 4)]

    for last in confirmed:
        outbox.record_with(lambda last=last: last)  # type: ignore[misc]
        await outbox.advance(Progress(10 * last.sequence))

    assert await outbox.marks.newest_first() == [
        Mark(Progress(20), confirmed[1]),
        Mark(Progress(10), confirmed[0]),
        Mark(Progress(0), None),
    ]
