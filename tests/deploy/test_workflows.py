"""What GitHub runs is what actionlint takes."""

from __future__ import annotations

from tests.deploy.tools import run
from tests.support.commands import ROOT


def test_actionlint_finds_nothing() -> None:
    assert run("actionlint", *sorted((ROOT / ".github" / "workflows").glob("*.yaml"))) == ""
