"""PostgreSQL's clock is set, back and ahead, while it runs."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from pgoutbox.demo.postgres import PostgresServer
from tests.conftest import Servers
from tests.support.cluster import Cluster
from tests.support.nursery import Nursery
from tests.support.scene import Scene
from tests.support.streams import Stream
from tests.support.waiting import eventually

RESTING = "select slot, since from pgoutbox.slot_rest where since is not null order by slot"
JUMPS = ("+2h", "-1d", "+30d", "+0")  # from the true time


class ClockedPostgres(PostgresServer):
    """A server whose clock libfaketime tells; how time goes on isn't its affair."""

    def set_clock(self, offset: str) -> None:
        """Set it to the true time plus ``offset``, such as ``-1d``."""
        self._offset.write_text(offset)

    @property
    def _offset(self) -> Path:
        return self.folder / "offset"

    def _command(self) -> list[str | Path]:
        return [
            *("/usr/bin/env", f"LD_PRELOAD={library()}", "DONT_FAKE_MONOTONIC=1"),
            *(f"FAKETIME_TIMESTAMP_FILE={self._offset}", "FAKETIME_NO_CACHE=1"),
            *super()._command(),
        ]

    def _prepare(self) -> None:
        super()._prepare()
        self._offset.write_text("+0")
        self._offset.chmod(0o644)


def library() -> Path:
    """Return libfaketime; skip the test where there is none."""
    found = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if found is None:
        pytest.skip("libfaketime isn't installed (Debian's package libfaketime has it)")
    return found


@pytest.mark.long
async def test_the_servers_clock_jumps(
    servers: Servers, stream: Stream, nursery: Nursery, seed: int
) -> None:
    """Order holds, and no slot is emptied because of hours that nobody has lived through."""
    server = servers.postgres_of(ClockedPostgres)
    assert isinstance(server, ClockedPostgres)
    cluster = Cluster(server.dsn(), server)
    await cluster.prepare()
    database = await cluster.create_database()
    scene = Scene(database, stream, nursery, seed)
    writer = await database.connect()
    await writer.execute("create table t (id integer); select pgoutbox.capture_table('t')")
    numbers = itertools.count(1)
    relay = await scene.relay("--retention", "55m")
    await relay.line("leading")
    for offset in JUMPS:
        server.set_clock(offset)
        for _ in range(20):
            await writer.execute(f"insert into t values ({next(numbers)})")
    await scene.all_sent()
    assert await relay.stop() == 0

    await writer.execute("update pgoutbox.slot_rest set since = null")
    relay = await scene.relay("--retention", "12s")
    slot, since = await eventually(partial(writer.fetchrow, RESTING), timeout=30)
    server.set_clock("+2h")
    await writer.execute(f"insert into t values ({next(numbers)})")
    moved_on = f"select since > $1 from pgoutbox.slot_rest where slot = {slot}"
    await eventually(partial(writer.fetchval, moved_on, since + timedelta(hours=1)), timeout=30)
    assert "slot emptied" not in relay.output
    await relay.line("slot emptied", timeout=60)
    await scene.all_sent()
    assert await relay.stop() == 0
    ids = [json.loads(message.data)["data"]["id"] for message in await stream.messages()]
    assert ids == [*range(1, 20 * len(JUMPS) + 2)]
    await database.disconnect()
