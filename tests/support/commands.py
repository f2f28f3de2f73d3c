"""The real command line, as a user runs it, and relays as processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pgoutbox.demo.process import guarded
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


def clean_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return our environment without what configures pgoutbox or libpq, and with ``env``."""
    ours = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PG", "WAL_", "DATABASE_URL"))
    }
    return {**ours, **(env or {})}


def pgoutbox(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
    input: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the real command to its end."""
    return subprocess.run(
        guarded([sys.executable, "-m", "pgoutbox", *arguments]),
        cwd=ROOT,
        env=clean_environment(env),
        input=input,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Daemon:
    """A running pgoutbox command, its output, and its end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._readers = [
            asyncio.create_task(_collect(process.stdout, self.stdout)),
            asyncio.create_task(_collect(process.stderr, self.stderr)),
        ]

    @property
    def output(self) -> str:
        """All that it has written so far, for messages of failing tests."""
        return "".join(self.stdout + self.stderr)

    async def line(self, part: str, *, timeout: float = 20.0) -> str:
        """Wait for a line on either stream that contains ``part``, and return it."""

        def found() -> str | None:
            if self.process.returncode is not None and not any(
                part in line for line in self.stdout + self.stderr
            ):
                raise RuntimeError(f"ended without {part!r}:\n{self.output}")
            return next((line for line in self.stdout + self.stderr if part in line), None)

        try:
            return str(await eventually(found, timeout=timeout))
        except AssertionError as error:
            raise AssertionError(f"no line with {part!r} in:\n{self.output}") from error

    def send_signal(self, signum: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(signum)

    async def wait(self, *, timeout: float = 30.0) -> int:
        """Wait for its end, and return the exit code."""
        code = await asyncio.wait_for(self.process.wait(), timeout)
        await asyncio.gather(*self._readers)
        return code

    async def stop(self) -> int:
        """Ask it to end with SIGTERM, and return the exit code."""
        self.send_signal(signal.SIGTERM)
        return await self.wait()

    async def kill(self) -> None:
        """End it with SIGKILL if it still runs."""
        if self.process.returncode is None:
            self.process.kill()
        await self.wait()


async def start_daemon(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    program: Sequence[str | Path] = (sys.executable, "-m", "pgoutbox"),
) -> Daemon:
    """Start the real command, and return while it runs; the fixture ``daemon`` ends it.

    ``program`` is another release's.
    """
    process = await asyncio.create_subprocess_exec(
        *guarded([*program, *arguments]),
        cwd=ROOT,
        env={"PYTHONUNBUFFERED": "1", **clean_environment(env)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    return Daemon(process)


async def _collect(stream: asyncio.StreamReader | None, lines: list[str]) -> None:
    assert stream is not None
    async for line in stream:
        lines.append(line.decode(errors="replace"))
