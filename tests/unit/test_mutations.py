"""The mutations fit the code as it is; `python -m tools.mutations` tries them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]
_ALL = [mutation for mutations in MUTATIONS.values() for mutation in mutations]


@pytest.mark.parametrize("mutation", _ALL, ids=lambda mutation: mutation.what)
def test_a_mutation_fits(mutation: Mutation) -> None:
    path, _, test = mutation.test.partition("::")
    name = test.partition("[")[0]

    times = (ROOT / mutation.path).read_text().count(mutation.before)
    assert times == 1, "the code has changed: have the mutation break the same in the new code"
    assert f"def {name}(" in (ROOT / path).read_text(), "the test has another name now"
    assert mutation.before != mutation.after


def test_each_mutation_has_a_name_of_its_own() -> None:
    names = [mutation.what for mutation in _ALL]

    assert sorted(set(names)) == sorted(names)
