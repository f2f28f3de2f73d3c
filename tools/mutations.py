"""Break pgoutbox in many ways, and see a test fail each time: python -m tools.mutations

Works on copies of the repository. Each way is in tests/mutations.py, with the test that must fail;
that one passes on an unchanged copy first. Words choose some of them: python -m tools.mutations gap
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from tests.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parent.parent

_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "htmlcov")

_PASSED, _FAILED = 0, 1  # of pytest's exit codes


class Result(NamedTuple):
    """Of one mutation: whether its test failed, and after how many seconds."""

    mutation: Mutation
    verdict: str
    seconds: float

    @property
    def is_found(self) -> bool:
        """Whether the test did what it is for."""
        return self.verdict == "found"


class Copies:
    """Copies of the repository, each for one test at a time."""

    def __init__(self, count: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pgoutbox-mutations-"))
        self._folder.chmod(0o711)  # PostgreSQL runs as another user where root runs this
        self._free: SimpleQueue[Path] = SimpleQueue()
        for number in range(count):
            copy = self._folder / str(number)
            shutil.copytree(ROOT, copy, ignore=_LEFT_OUT)
            self._free.put(copy)

    @contextmanager
    def one(self) -> Iterator[Path]:
        """Lend a copy."""
        copy = self._free.get()
        try:
            yield copy
        finally:
            self._free.put(copy)

    def remove(self) -> None:
        """Remove them all."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _pytest(copy: Path, *tests: str) -> int:
    """Return the exit code of pytest in a copy, where it imports that copy."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    ).returncode


@contextmanager
def _broken(copy: Path, mutation: Mutation) -> Iterator[None]:
    path = copy / mutation.path
    text = path.read_text()
    path.write_text(text.replace(mutation.before, mutation.after))
    try:
        yield
    finally:
        path.write_text(text)


def _try(copies: Copies, mutation: Mutation) -> Result:
    began = time.monotonic()
    with copies.one() as copy:
        if _pytest(copy, mutation.test) != _PASSED:
            verdict = "its test fails anyway"
        else:
            with _broken(copy, mutation):
                code = _pytest(copy, mutation.test)
            verdict = {_PASSED: "SURVIVES", _FAILED: "found"}.get(code, f"pytest ends with {code}")
    return Result(mutation, verdict, time.monotonic() - began)


def _chosen(words: Sequence[str]) -> list[Mutation]:
    return [
        mutation
        for area, mutations in MUTATIONS.items()
        for mutation in mutations
        if not words or any(word in f"{area} {mutation.what} {mutation.path}" for word in words)
    ]


def _show(result: Result) -> None:
    test = result.mutation.test.rpartition("::")[2]
    columns = (result.mutation.what, test, result.verdict, f"{result.seconds:.0f} s")
    print(f"| {' | '.join(columns)} |", flush=True)


def main() -> None:
    """Try mutations and print a table; exit code 1 if one isn't found."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.mutations", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("words", nargs="*", help="of what to break; without any, everything")
    parser.add_argument("--jobs", type=int, default=1, help="tests at the same time")
    arguments = parser.parse_args()
    mutations = _chosen(arguments.words)
    copies = Copies(arguments.jobs)
    results = []
    print("| what no longer holds | test | | |\n| --- | --- | --- | ---: |", flush=True)
    try:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for result in pool.map(lambda mutation: _try(copies, mutation), mutations):
                _show(result)
                results.append(result)
    finally:
        copies.remove()
    found = sum(result.is_found for result in results)
    print(f"\n{found} of {len(results)} found")
    sys.exit(found < len(results))


if __name__ == "__main__":
    main()
