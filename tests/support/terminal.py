"""The real command on a terminal of its own, as a person sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pgoutbox.demo.process import guarded
from tests.support.commands import ROOT, clean_environment

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A running command, and what it has written to its terminal."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._descriptor, 65536)
            except OSError:  # how Linux tells that the other side is closed
                return
            if not part:
                return
            self._written += part

    @property
    def written(self) -> str:
        """All of it, with escape sequences."""
        return self._written.decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """The lines as they look."""
        return self.text.split("\n")

    @property
    def text(self) -> str:
        """All of it, without escape sequences."""
        return _ESCAPES.sub("", self.written).replace("\r", "")

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._descriptor, keys.encode())

    def end(self) -> int:
        """Wait until the command has ended, and return its exit code."""
        code = self.process.wait(30)
        self._reader.join(5)
        return code


@contextmanager
def on_terminal(
    *arguments: str | Path,
    columns: int = 80,
    rows: int = 24,
    env: Mapping[str, str] | None = None,
) -> Iterator[Terminal]:
    """Run the real command on a terminal of that size; it is killed at the end."""
    environment = {"TERM": "xterm-256color", **clean_environment(env)}
    for name in ("COLUMNS", "LINES", *(() if env and "NO_COLOR" in env else ("NO_COLOR",))):
        environment.pop(name, None)
    command = [sys.executable, "-m", "pgoutbox", *arguments]
    with _started(command, environment, columns=columns, rows=rows) as terminal:
        yield terminal


@contextmanager
def shell_on_terminal(command: list[str], *, env: Mapping[str, str]) -> Iterator[Terminal]:
    """Run a shell on a terminal; it is killed at the end."""
    with _started(command, env, columns=120, rows=40) as terminal:
        yield terminal


@contextmanager
def _started(
    command: Sequence[str | Path], env: Mapping[str, str], *, columns: int, rows: int
) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        guarded(command),
        cwd=ROOT,
        env=env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    terminal = Terminal(process, ours)
    try:
        yield terminal
    finally:
        process.kill()
        terminal.end()
        os.close(ours)
