"""Signals to the first process of a container, which without a handler it doesn't even get."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT, clean_environment

FIRST = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")


def has_namespaces() -> bool:
    if shutil.which(FIRST[0]) is None:
        return False
    return subprocess.run([*FIRST, "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not has_namespaces(), reason="no pid namespace may be made")


def test_sigterm_ends_the_first_process_of_a_container_while_it_imports(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nraise SystemExit(99)"
    )
    env = clean_environment({"PYTHONPATH": str(tmp_path)})

    done = subprocess.run(
        [*FIRST, sys.executable, "-m", "pgoutbox", "relay"], cwd=ROOT, env=env, capture_output=True
    )

    assert (done.returncode, done.stdout, done.stderr) == (143, b"", b"")


def test_second_signal_ends_the_first_process_of_a_container() -> None:
    program = (
        "import asyncio, os, signal\n"
        "from pgoutbox.relay.signals import stop_on_signal\n"
        "async def main():\n"
        "    stop = asyncio.Event()\n"
        "    with stop_on_signal(stop):\n"
        "        os.kill(1, signal.SIGTERM)\n"
        "        await stop.wait()\n"
        "        os.kill(1, signal.SIGTERM)\n"
        "        await asyncio.sleep(30)\n"
        "asyncio.run(main())"
    )

    done = subprocess.run([*FIRST, sys.executable, "-c", program], cwd=ROOT, capture_output=True)

    assert (done.returncode, done.stdout, done.stderr) == (143, b"", b"")
