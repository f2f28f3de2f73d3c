"""Fixtures of this folder."""

from tests.support.seeds import nursery, scene, seed

__all__ = ["nursery", "scene", "seed"]
