"""Fixtures of this folder."""

from tests.support.seeds import bucket, filler, nursery, scene, seed

__all__ = ["bucket", "filler", "nursery", "scene", "seed"]
