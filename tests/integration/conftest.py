"""Fixtures of this folder."""

from tests.seeds import nursery

__all__ = ["nursery"]
