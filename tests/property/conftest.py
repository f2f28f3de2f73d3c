"""Fixtures of this folder."""

import pytest

pytest.register_assert_rewrite("tests.ledger")

from tests.seeds import nursery, scene, seed  # noqa: E402 - after what it may import

__all__ = ["nursery", "scene", "seed"]
