"""Snapshots under writers that are as fast as they can, and a relay that is killed."""

from __future__ import annotations

import pytest

from tests.support import frontier
from tests.support.cluster import Database
from tests.support.nursery import Nursery
from tests.support.streams import Stream


@pytest.mark.parametrize("snapshots", [1, pytest.param(8, marks=pytest.mark.long)])
async def test_each_row_is_read_as_the_events_before_it_have_left_it(
    database: Database, stream: Stream, nursery: Nursery, seed: int, snapshots: int
) -> None:
    left = iter(range(snapshots))
    await frontier.judged(database, stream, nursery, seed, lambda: next(left, None) is not None)
