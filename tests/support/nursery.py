"""Relays that start in milliseconds: forked from a process that has imported pgoutbox.

What runs in them is the real command. Each writes its output to a file of its own, and dies
with the process that forks, which dies with the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from pgoutbox.demo.process import guarded
from tests.support import fast_motion
from tests.support.commands import ROOT, clean_environment
from tests.support.waiting import eventually


class Relay:
    """A running pgoutbox command."""

    def __init__(self, nursery: Nursery, pid: int, log: Path) -> None:
        self._nursery = nursery
        self.pid = pid
        self.log = log
        self._code: int | None = None

    @property
    def output(self) -> str:
        """All that it has written so far."""
        return self.log.read_text(errors="replace")

    @property
    def lines(self) -> list[str]:
        """Its log lines so far."""
        return self.output.splitlines()

    async def line(self, part: str, *, count: int = 1, timeout: float = 20.0) -> str:
        """Wait until ``count`` lines contain ``part``, and return the last of these."""

        async def found() -> str | None:
            lines = [line for line in self.lines if part in line]
            if len(lines) < count and await self.code() is not None:
                raise RuntimeError(f"ended without {part!r}:\n{self.output}")
            return lines[count - 1] if len(lines) >= count else None

        try:
            return str(await eventually(found, timeout=timeout))
        except AssertionError as error:
            raise AssertionError(f"no line with {part!r} in:\n{self.output}") from error

    async def code(self) -> int | None:
        """Return its exit code; minus the signal where one ended it; None while it runs."""
        if self._code is None:
            answer = await self._nursery.ask({"poll": self.pid})
            self._code = answer["code"]
        return self._code

    def send_signal(self, signum: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, signum)

    async def wait(self, *, timeout: float = 30.0) -> int:
        """Wait for its end, and return the exit code."""

        async def ended() -> bool:
            return await self.code() is not None

        try:
            await eventually(ended, timeout=timeout, pause=0.005)
        except AssertionError as error:
            raise AssertionError(f"still runs:\n{self.output}") from error
        assert self._code is not None
        return self._code

    async def stop(self) -> int:
        """Ask it to end with SIGTERM, and return the exit code."""
        self.send_signal(signal.SIGTERM)
        return await self.wait()

    async def kill(self) -> None:
        """End it with SIGKILL if it still runs."""
        if await self.code() is None:
            self.send_signal(signal.SIGKILL)
            await self.wait()


class Nursery:
    """Starts relays, and kills those that are left at its end."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._lock = asyncio.Lock()
        self._numbers = itertools.count(1)
        self.relays: list[Relay] = []

    async def start(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        output: Path | None = None,
    ) -> Relay:
        """Start ``pgoutbox`` with ``arguments``, and return while it runs.

        What it writes goes to a file, or to ``output``.
        """
        log = output or self._folder / f"{next(self._numbers)}.log"
        log.touch()
        answer = await self.ask(
            {"start": [str(a) for a in arguments], "env": dict(env or {}), "log": str(log)}
        )
        self.relays.append(Relay(self, answer["pid"], log))
        return self.relays[-1]

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request to the forking process."""
        async with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            return dict(json.loads(await self._process.stdout.readline()))


@contextlib.asynccontextmanager
async def open_nursery() -> AsyncIterator[Nursery]:
    """Start the forking process."""
    with tempfile.TemporaryDirectory(prefix="pgoutbox-relays-") as folder:
        process = await asyncio.create_subprocess_exec(
            *guarded([sys.executable, "-m", "tests.support.nursery"]),
            cwd=ROOT,
            env=clean_environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        nursery = Nursery(process, Path(folder))
        try:
            yield nursery
        finally:
            for relay in nursery.relays:
                await relay.kill()
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
            process._transport.close()  # type: ignore[attr-defined]


def _serve() -> None:
    import yaml  # noqa: F401 - by far the slowest import of a command with a file

    if os.environ.get("PGOUTBOX_TEST_EVENT_LOOP") == "asyncio":
        sys.modules["uvloop"] = None  # type: ignore[assignment]  # as if it weren't installed
    import pgoutbox.cli.relay
    import pgoutbox.database.install
    import pgoutbox.monitoring.systemd
    import pgoutbox.monitoring.web
    import pgoutbox.relay.daemon

    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            pid = os.fork()
            if pid == 0:
                _run(request, pgoutbox.cli.main)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


def _run(request: dict[str, Any], main: Any) -> None:
    code = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(request["env"])
        if file := os.environ.get(fast_motion.VARIABLE):
            fast_motion.begin(Path(file))
        main(args=request["start"], prog_name="pgoutbox")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # a full disk, where a test has that
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
