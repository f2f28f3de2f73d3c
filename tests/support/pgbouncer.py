"""A real PgBouncer before the test's PostgreSQL, where the machine has one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pgoutbox.demo.process import guarded, unprivileged_user
from tests.support.waiting import eventually

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


class PgBouncer:
    """A pooler that runs; ``port`` is where it listens on the loopback."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self.log = log

    def dsn(self, dsn: str) -> str:
        """Return the connection string of the same role and database, through the pooler."""
        parts = urlsplit(dsn)
        credentials = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{credentials}@127.0.0.1:{self.port}").geturl()


@contextlib.asynccontextmanager
async def pgbouncer(dsn: str, mode: str, **settings: str | int) -> AsyncIterator[PgBouncer]:
    """Run PgBouncer in a pool mode before the server of ``dsn``, which knows the role's password.

    Skips the test where the machine has no PgBouncer: it comes from the Debian package of that
    name, and there is no wheel.
    """
    if PROGRAM is None:
        pytest.skip("there is no pgbouncer (on Debian: apt-get install pgbouncer)")
    server = urlsplit(dsn)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pgoutbox-pgbouncer-") as name:
        folder = Path(name)
        os.chmod(folder, 0o755)
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "auth_type": "any",
            "pool_mode": mode,
            "unix_socket_dir": "",
            "query_wait_timeout": 60,
            **settings,
        }
        login = f"user={server.username} password={server.password}"
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={server.hostname} port={server.port} {login}\n[pgbouncer]\n"
            + "".join(f"{key} = {value}\n" for key, value in options.items())
        )
        log = folder / "log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *guarded([PROGRAM, folder / "pgbouncer.ini"], user=unprivileged_user()),
                stdout=output,
                stderr=output,
            )
        try:
            await eventually(lambda: _listens(port))
            yield PgBouncer(port, log)
        finally:
            process.terminate()
            await process.wait()
            process._transport.close()  # type: ignore[attr-defined]


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
