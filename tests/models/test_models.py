"""Each model keeps its promises in every interleaving, and each variant is found to break one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.models.commit_stage import DEFERRED, IMMEDIATE, OTHER, SIMPLE, CommitStage
from tests.models.explorer import Broken, Model, explore
from tests.models.gaps import Gaps
from tests.models.marks import Marks
from tests.models.plan import Plan
from tests.models.sleep_lock import SleepLock
from tests.models.snapshots import Snapshots

_MODELS: list[type[Model[Any]]] = [CommitStage, Gaps, Marks, Plan, SleepLock, Snapshots]
_LARGER: list[Model[Any]] = [
    CommitStage(SIMPLE, IMMEDIATE, DEFERRED, OTHER),
    Gaps(transactions=3, positions=3, plain=True),
    Gaps(transactions=3, positions=4, most_gaps=0, plain=True),
    Marks((1, 2, 1), mishaps=3),
    Marks((1, 3), mishaps=4),
    Plan((1, 2, 2), crashes=False),
    Plan((2, 3), limit=3),
    SleepLock(stranger=True),
    Snapshots(keeps_repeats=True),
    Snapshots((1, 2, 1)),
]

_VARIANTS = [variant for model in _MODELS for variant in model.variants]


def _name(model: Model[Any]) -> str:
    return type(model).__name__


@pytest.mark.parametrize("model", _MODELS)
def test_no_interleaving_breaks_a_promise(model: type[Model[Any]]) -> None:
    explore(model())


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", _LARGER, ids=_name)
def test_no_interleaving_of_more_breaks_a_promise(model: Model[Any]) -> None:
    explore(model)


@pytest.mark.parametrize("variant", _VARIANTS)
def test_a_variant_is_found(variant: type[Model[Any]]) -> None:
    with pytest.raises(Broken):
        explore(variant())


@pytest.mark.parametrize("model", _MODELS)
def test_the_document_has_the_model(model: type[Model[Any]]) -> None:
    """With the number of its variants."""
    text = (Path(__file__).parents[2] / "docs" / "how-it-is-tested.md").read_text()
    name = model.__module__.rpartition(".")[2]

    assert re.search(rf"^\| `{name}` \| .* \| {len(model.variants)} \|$", text, re.MULTILINE)
