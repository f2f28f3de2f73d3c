"""Programs that the tests of deploy/ run, and that not every machine has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.commands import ROOT
from tools import documents

_WHERE_FROM = {
    "helm": "make test-all installs it where there is Go",
    "prometheus": "Debian's package prometheus has it",
    "promtool": "Debian's package prometheus has it",
    "systemd-analyze": "Debian's package systemd has it",
}


def program(name: str) -> str:
    """Return the path of a program; skip the test where there is none."""
    found = documents.program(name)
    if found is None:
        pytest.skip(f"{name} isn't installed ({_WHERE_FROM[name]})")
    return found


def run(name: str, *arguments: str | Path, cwd: Path = ROOT) -> str:
    """Run a program, and return what it printed on stdout."""
    done = subprocess.run(
        [program(name), *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
