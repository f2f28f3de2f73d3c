"""The tour works, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pgoutbox.demo.tour import command_line
from tests.conftest import StartDaemon
from tests.support.commands import Daemon
from tests.support.waiting import eventually

EVENT = re.compile(
    r"receive-event +wal_listener\.public_users +(INSERT|UPDATE|READ) +(\w+ \w+) +[\d.]+ ms"
)
PEOPLE = ["John Wick", "James Bond", "Elim Garak", "Sarah Walker"]


@pytest.fixture
def temporary() -> Iterator[dict[str, str]]:
    """Variables that give the demo a place of its own for its files."""
    folder = tempfile.mkdtemp(prefix="pgoutbox-test-demo-")
    Path(folder).chmod(0o711)
    yield {"TMPDIR": folder}
    shutil.rmtree(folder, ignore_errors=True)


async def test_demo_shows_four_inserts_four_updates_and_a_snapshot(
    daemon: StartDaemon, temporary: dict[str, str]
) -> None:
    demo = await daemon("demo", env=temporary)

    assert await demo.wait(timeout=90) == 0, demo.output

    expected = [(action, name) for action in ("INSERT", "UPDATE") for name in PEOPLE]
    events = EVENT.findall(demo.output)
    assert expected == events[:8]
    assert sorted(events[8:]) == sorted(("READ", name) for name in [*PEOPLE, "Malcolm Reynolds"])
    await _assert_nothing_is_left(temporary)


def test_demo_prints_commands_as_they_can_be_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    assert command_line() == ".venv/bin/python -m pgoutbox"

    (folder / "pgoutbox").touch(mode=0o755)
    assert command_line() == ".venv/bin/pgoutbox"
    monkeypatch.chdir(folder)
    assert command_line() == "pgoutbox"
    monkeypatch.chdir(tmp_path / ".venv" / "bin" / "..")
    assert command_line() == "bin/pgoutbox"

    monkeypatch.setenv("PATH", str(folder))
    assert command_line() == "pgoutbox"


@pytest.mark.parametrize(
    "moment", ["1. Started", "3. Installed", "5. receive-event", "press Ctrl-C"]
)
@pytest.mark.parametrize(
    "signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
async def test_stopped_demo_leaves_nothing(
    daemon: StartDaemon, temporary: dict[str, str], moment: str, signum: signal.Signals
) -> None:
    demo = await daemon("demo", "--keep", env=temporary)
    await demo.line(moment, timeout=60)

    demo.send_signal(signum)
    code = await demo.wait()

    assert (code == 0) == (moment == "press Ctrl-C"), demo.output
    assert "Traceback" not in demo.output
    await _assert_nothing_is_left(temporary)


async def test_killed_demo_leaves_no_process(
    daemon: StartDaemon, temporary: dict[str, str]
) -> None:
    demo = await daemon("demo", "--keep", env=temporary)
    await demo.line("press Ctrl-C", timeout=60)
    children = _descendants(demo)
    assert {"postgres", "nats-server"} <= {process.name() for process in children}

    await demo.kill()

    await eventually(lambda: not any(process.is_running() for process in children))


def _descendants(demo: Daemon) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(demo.process.pid).children(recursive=True)
    return found


async def _assert_nothing_is_left(temporary: dict[str, str]) -> None:
    folder = temporary["TMPDIR"]
    assert os.listdir(folder) == []
    await eventually(lambda: not _processes_of(folder))


def _processes_of(folder: str) -> list[psutil.Process]:
    """Return the processes with the demo's folder in their command line or environment."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        told = [*(process.info["cmdline"] or []), (process.info["environ"] or {}).get("TMPDIR")]
        if any(folder in word for word in told if word):
            found.append(process)
    return found
