"""Programs that tests run, and that not every machine has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.commands import ROOT
from tools import documents

_BUILT = "make test-all installs it where there is Go"
_FROM_NPM = "make test-all installs it where there is npm"
_WHERE_FROM = {
    "actionlint": _BUILT,
    "drizzle-kit": _FROM_NPM,
    "goose": _BUILT,
    "helm": _BUILT,
    "knex": _FROM_NPM,
    "migrate": _BUILT,
    "mvn": "Debian's package maven has it",
    "nats": _BUILT,
    "node-pg-migrate": _FROM_NPM,
    "prometheus": "Debian's package prometheus has it",
    "promtool": "Debian's package prometheus has it",
    "ruby": "Debian's packages ruby-activerecord and ruby-pg have it",
    "sqlc": _BUILT,
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
