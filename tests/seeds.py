"""Fixtures of the tests that draw lots: the seed, and relays to be killed."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator

import pytest

from tests.nursery import Nursery, open_nursery


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
