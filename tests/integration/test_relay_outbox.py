"""The outbox as its leader sees it, and as one that has lost the lead does."""

from __future__ import annotations

import asyncpg
import pytest

from pgoutbox.config.settings import MessageConfig
from pgoutbox.errors import LeadershipLost
from pgoutbox.messages.formats import format_of
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
