"""PostgreSQL and nats-server run from PyPI wheels: for the demo, the tests and the benchmarks.

Both listen on 127.0.0.1 only, keep all their files in one folder, and end with this process,
even when it is killed. Nothing here is used by a relay in production.
"""

from __future__ import annotations

import os
import pwd
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pgoutbox.errors import PgoutboxError

HOST = "127.0.0.1"
START_TIMEOUT = 60.0  # seconds; a crashed PostgreSQL replays its WAL first
STOP_TIMEOUT = 30.0  # seconds, then the server is killed


# Runs in the child before the server: gives up root's rights, and asks the kernel for a signal
# at the death of the parent. An exec keeps that wish, a change of user would drop it. Not a
# preexec_fn, which may deadlock in a process with threads.
_GUARD = """
import ctypes, os, sys
parent, signum, uid, gid = map(int, sys.argv[1:5])
if uid >= 0:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signum, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent process has ended")
os.execv(sys.argv[5], sys.argv[5:])
"""

# Settings that would reach the servers through the environment of whoever runs us.
_FOREIGN_VARIABLES = ("PG", "NATS", "LC_", "LANG")


@dataclass(frozen=True, slots=True)
class ServiceUser:
    """The account a server runs under."""

    name: str
    uid: int
    gid: int


def guarded(
    command: Sequence[str | Path],
    *,
    death_signal: signal.Signals = signal.SIGKILL,
    user: ServiceUser | None = None,
) -> list[str]:
    """Return a command line that runs ``command``, and signals it when its parent dies.

    On Linux it can't outlive the thread that starts it; elsewhere it can.
    """
    account = (str(user.uid), str(user.gid)) if user else ("-1", "-1")
    prefix = [sys.executable, "-I", "-S", "-c", _GUARD]
    return [*prefix, str(os.getpid()), str(int(death_signal)), *account, *map(str, command)]


def unprivileged_user() -> ServiceUser | None:
    """Return the user to run PostgreSQL as, which refuses root; None where we aren't root."""
    if os.geteuid() != 0:
        return None
    others = sorted(pwd.getpwall(), key=lambda entry: entry.pw_name != "nobody")
    for entry in others:
        if entry.pw_uid != 0:
            return ServiceUser(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise PgoutboxError(
        "PostgreSQL refuses to run as root, and this system has no other user",
        hint="Create one, or run this command as an ordinary user.",
    )


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on.

    Below the range from which systems take the ports of outgoing connections: there, a client
    that tries again and again to reach a stopped server may end up connected to itself.
    """
    for _ in range(1_000):
        port = random.randrange(20_000, 32_000)  # noqa: S311
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise PgoutboxError(f"no free port on {HOST}")


def version_of(program: Path) -> str:
    """Return the version that a server's program prints, such as ``18.6``."""
    printed = subprocess.run(  # noqa: S603
        [program, "--version"], check=True, capture_output=True, text=True
    ).stdout
    return next(word for word in printed.split() if word.lstrip("v")[0].isdigit()).lstrip("v")


class Server:
    """A server process: started, waited for, and never left behind."""

    name: str
    _death_signal = signal.SIGKILL
    _stop_signal = signal.SIGTERM

    def __init__(self, folder: Path, port: int | None) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / "log"
        self._wanted_port = port
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The running server's process, None while there is none."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> Self:
        """Start the server, and return once it takes connections.

        To be called from a thread that lives as long as the server should.
        """
        if self.pid is not None:
            return self
        for attempts_left in (4, 3, 2, 1, 0):
            self._prepare()
            self._process = self._spawn()
            if self._wait_until_ready():
                return self
            if self._wanted_port or not attempts_left or not self._found_port_in_use():
                break
            self.port = free_port()
        raise PgoutboxError(
            f"{self.name} did not start: {self._last_words()}", hint=f"Its log is {self.log}."
        )

    def stop(self) -> None:
        """Ask the server to end and wait for it; kill it where it doesn't."""
        self._end(self._stop_signal)

    def kill(self) -> None:
        """End the server as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the server, and start it on the same port with the same files."""
        self.stop()
        self._wanted_port = self.port
        self.start()

    def send_signal(self, signum: signal.Signals) -> None:
        """Send the running server a signal, such as SIGSTOP."""
        if self._process is not None:
            self._process.send_signal(signum)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _command(self) -> list[str | Path]:
        raise NotImplementedError

    def _prepare(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _is_ready(self) -> bool:
        raise NotImplementedError

    def _user(self) -> ServiceUser | None:
        return None

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = guarded(self._command(), death_signal=self._death_signal, user=self._user())
        with self.log.open("ab") as log:
            return start_process(command, self.folder, log)

    def _wait_until_ready(self) -> bool:
        """Wait for the first connection; False where the process ends instead."""
        assert self._process is not None  # noqa: S101
        deadline = time.monotonic() + START_TIMEOUT
        while self._process.poll() is None:
            if self._is_ready():
                return True
            if time.monotonic() > deadline:
                self.kill()
                break
            time.sleep(0.01)
        return False

    def _end(self, signum: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signum)
            self._process.send_signal(signal.SIGCONT)  # a stopped process can't end
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def _found_port_in_use(self) -> bool:
        return "in use" in self._log_text()

    def _log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _last_words(self) -> str:
        lines = self._log_text().strip().splitlines()
        return lines[-1] if lines else "it logged nothing"


def start_process(command: Sequence[str], folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that Ctrl-C reaches us and not it."""
    return subprocess.Popen(  # noqa: S603
        command,
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN_VARIABLES)}


def child_processes(pid: int) -> list[int]:
    """Return a process's children; none on systems other than Linux."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in children.split()]


def missing_wheel(server: str) -> PgoutboxError:
    """Return the error for a server whose wheel isn't installed."""
    return PgoutboxError(
        f"the wheel that brings {server} is not installed", hint="pip install 'pgoutbox[demo]'"
    )
