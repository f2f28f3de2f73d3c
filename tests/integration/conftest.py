"""Fixtures of this folder."""

from tests.support.chunks import begun, reading
from tests.support.seeds import nursery, seed

__all__ = ["begun", "nursery", "reading", "seed"]
