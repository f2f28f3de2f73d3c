"""The outbox as its leader sees it, and as one that has lost the lead does."""

from __future__ import annotations

import pytest

from pgoutbox.config.settings import MessageConfig
from pgoutbox.errors import LeadershipLost
from pgoutbox.messages.formats import format_of
from pgoutbox.outbox.progress import Progress
from pgoutbox.outbox.reader import Outbox
from tests.conftest import Connect


async def _outbox(connect: Connect) -> Outbox:
    return Outbox(
        await connect(),
        format_of(MessageConfig(), "app"),
        relay="default",
        batch_events=100,
        batch_bytes=2**20,
    )


async def test_former_leader_cannot_move_the_progress(connect: Connect) -> None:
    """Frozen while another one took over, it is told so and changes nothing."""
    former, leader = await _outbox(connect), await _outbox(connect)
    await former.lead()
    await former.advance(Progress(5))
    assert await leader.lead() == Progress(5)
    await leader.advance(Progress(7))

    with pytest.raises(LeadershipLost):
        await former.advance(Progress(6))

    assert await (await _outbox(connect)).lead() == Progress(7)
