"""Fixtures of this folder."""

from tests.support.seeds import nursery, seed

__all__ = ["nursery", "seed"]
