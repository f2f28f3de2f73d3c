"""Fixtures of this folder."""

from tests.seeds import nursery, seed

__all__ = ["nursery", "seed"]
