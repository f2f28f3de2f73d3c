"""Each model keeps its promises in every interleaving, and each variant is found to break one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.models.explorer import Broken, Model, explore
from tests.models.sleep_lock import SleepLock

# Small enough for every run, and larger.
_SMALL: list[Model[Any]] = [SleepLock(writers=2)]
_LARGE: list[Model[Any]] = [SleepLock(writers=3)]

_VARIANTS = [variant for model in _SMALL for variant in type(model).variants]


def _name(model: Model[Any]) -> str:
    return type(model).__name__


@pytest.mark.parametrize("model", _SMALL, ids=_name)
def test_no_interleaving_breaks_a_promise(model: Model[Any]) -> None:
    explore(model)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", _LARGE, ids=_name)
def test_no_interleaving_of_more_breaks_a_promise(model: Model[Any]) -> None:
    assert explore(model) > 20_000


@pytest.mark.parametrize("variant", _VARIANTS)
def test_a_variant_is_found(variant: type[Model[Any]]) -> None:
    with pytest.raises(Broken):
        explore(variant())
