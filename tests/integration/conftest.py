"""Fixtures of this folder."""

from tests.support.seeds import nursery

__all__ = ["nursery"]
