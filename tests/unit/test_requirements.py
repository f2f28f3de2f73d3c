"""What requirements/ pins is what pyproject.toml asks for, and nothing can take its place."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.commands import ROOT

FOLDER = ROOT / "requirements"
FILES = sorted(FOLDER.glob("*.txt"))
PINNED = re.compile(
    r"^(\S+)==(\S+)(?: ; [^\\]+)? \\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", re.M
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
RUN_TIME: list[str] = PROJECT["project"]["dependencies"]


def _pins(name: str) -> dict[str, str]:
    """Return the version of each package that a file pins."""
    return {found[1]: found[2] for found in PINNED.finditer((FOLDER / name).read_text())}


@pytest.mark.parametrize(
    ("file", "asked_for"),
    [
        ("build.txt", (FOLDER / "build.in").read_text().splitlines()),
        ("demo.txt", RUN_TIME + EXTRAS["demo"]),
        ("dev.txt", sum(EXTRAS.values(), RUN_TIME) + PROJECT["dependency-groups"]["dev"]),
        ("deploy.txt", PROJECT["dependency-groups"]["deploy"]),
        ("docs.txt", PROJECT["dependency-groups"]["docs"]),
        ("image.txt", RUN_TIME + EXTRAS["metrics"] + EXTRAS["nkeys"] + EXTRAS["sentry"]),
    ],
)
def test_pins_are_what_the_project_asks_for(file: str, asked_for: list[str]) -> None:
    """`make lock` makes it so."""
    pins = _pins(file)

    for line in asked_for:
        requirement = Requirement(line.partition(" #")[0])
        name = canonicalize_name(requirement.name)
        assert name in pins, f"requirements/{file} lacks {name}"
        assert requirement.specifier.contains(pins[name], prereleases=True), (file, line)


def test_a_package_has_one_version() -> None:
    pins = {(name, version) for file in FILES for name, version in _pins(file.name).items()}

    assert len(pins) == len({name for name, _ in pins})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_line_is_a_pin_with_its_hashes(file: Path) -> None:
    """No option, no address of an index: pip's own configuration says where packages are."""
    rest = re.sub(r"^ *#.*\n", "", PINNED.sub("", file.read_text()), flags=re.M)

    assert rest == ""
