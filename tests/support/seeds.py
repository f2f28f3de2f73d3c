"""Fixtures of the tests that draw lots: the seed, relays to be killed, a scene for faults."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import AsyncIterator

import pytest
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from tests.support import ledger
from tests.support.buckets import Bucket, Filler
from tests.support.cluster import Database
from tests.support.nursery import Nursery, open_nursery
from tests.support.scene import Scene
from tests.support.streams import Stream
from tests.support.waiting import unique


@pytest.fixture
def seed() -> int:
    """A random number, printed, or what PGOUTBOX_TEST_SEED says."""
    given = os.environ.get("PGOUTBOX_TEST_SEED")
    seed = int(given) if given else random.SystemRandom().randrange(2**32)
    print(f"PGOUTBOX_TEST_SEED={seed}")
    return seed


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    """Start relays that may be killed: ``relay = await nursery.start("relay", …)``."""
    async with open_nursery() as nursery:
        yield nursery


@pytest.fixture
async def scene(database: Database, stream: Stream, nursery: Nursery, seed: int) -> Scene:
    """Writers, relays and a ledger on the servers that all tests share."""
    await ledger.prepare(database)
    return Scene(database, stream, nursery, seed)


@pytest.fixture
async def bucket(nats_url: str, jetstream: JetStreamContext) -> AsyncIterator[Bucket]:
    """The test's own bucket, which the relay makes; removed after the test."""
    bucket = Bucket(unique("b"), nats_url, jetstream)
    yield bucket
    with contextlib.suppress(NotFoundError):
        await jetstream.delete_stream(bucket.stream_name)


@pytest.fixture
async def filler(database: Database, bucket: Bucket, nursery: Nursery) -> Filler:
    """Relays that fill the test's bucket."""
    return Filler(database, bucket, nursery)
