"""Fixtures of this folder."""

from tests.support.chunks import begun, reading
from tests.support.seeds import bucket, filler, nursery, seed

__all__ = ["begun", "bucket", "filler", "nursery", "reading", "seed"]
