"""Explore models and their variants: ``python -m tests.models sleep_lock``; without names, all."""

from __future__ import annotations

import sys
import time
from typing import Any

from tests.models.commit_stage import CommitStage
from tests.models.explorer import Broken, Model, explore
from tests.models.gaps import Gaps
from tests.models.marks import Marks
from tests.models.plan import Plan
from tests.models.sleep_lock import SleepLock
from tests.models.snapshots import Snapshots

_MODELS: dict[str, type[Model[Any]]] = {
    "commit_stage": CommitStage,
    "gaps": Gaps,
    "marks": Marks,
    "plan": Plan,
    "sleep_lock": SleepLock,
    "snapshots": Snapshots,
}


def _show(name: str) -> None:
    began = time.monotonic()
    states = explore(_MODELS[name]())
    print(f"{name}: {states:,} states, no promise broken ({time.monotonic() - began:.1f} s)\n")
    for variant in _MODELS[name].variants:
        try:
            explore(variant())
        except Broken as broken:
            print(f"{variant.__name__}. {variant.__doc__}\n{broken}\n")
        else:
            raise SystemExit(f"{variant.__name__} breaks no promise")


def main() -> None:
    """Show the models that are named."""
    for name in sys.argv[1:] or _MODELS:
        if name not in _MODELS:
            raise SystemExit(f"no model is called {name}; there are {', '.join(_MODELS)}")
        _show(name)


if __name__ == "__main__":
    main()
