"""The wheel holds all that the package needs, and works where nothing else is installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pgoutbox
from tests.support.commands import ROOT, clean_environment


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--no-isolation")
    _run(*build, "--outdir", folder, ROOT)  # the wheel from the sdist
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command pgoutbox of an environment with nothing but the wheel."""
    environment = tmp_path_factory.mktemp("empty") / "venv"
    _run(sys.executable, "-m", "venv", environment)
    _run(environment / "bin" / "python", "-m", "pip", "install", "--quiet", wheel)
    return environment / "bin" / "pgoutbox"


def test_wheel_holds_every_file_of_the_package_and_of_sql(wheel: Path) -> None:
    expected = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "pgoutbox").rglob("*")
        if file.suffix in (".py", ".typed")
    } | {f"pgoutbox/{file.relative_to(ROOT)}" for file in (ROOT / "sql").rglob("*.sql")}

    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    assert expected == names


def test_installed_alone_it_knows_its_version(command: Path, tmp_path: Path) -> None:
    assert pgoutbox.__version__ in _run(command, "--version", cwd=tmp_path)


def test_installed_alone_it_prints_the_schema(command: Path, tmp_path: Path) -> None:
    printed = _run(command, "install", "--print-sql", "--table", "users", cwd=tmp_path)

    for file in (ROOT / "sql").rglob("*.sql"):
        assert file.read_text().strip() in printed, file
    assert "capture_table('users'" in printed


def test_installed_alone_the_demo_says_what_it_lacks(command: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [command, "demo"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "hint: pip install 'pgoutbox[demo]'" in done.stderr


def _run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
