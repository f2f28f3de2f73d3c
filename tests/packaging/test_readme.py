"""The README's example does what the README prints."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import nats

from pgoutbox.demo.postgres import postgres_installation
from tests.conftest import Servers, StartDaemon
from tests.support.cluster import Database
from tests.support.commands import ROOT, clean_environment, pgoutbox
from tests.support.streams import Stream
from tests.support.waiting import eventually

README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(r"^<!-- example: (\w+) -->\n```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)

TOKEN = re.compile(r'"[^"]*"|[^"]+')
TIME = re.compile(r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z"')


@dataclass
class Reader:
    """Somebody who types what the README says, with the addresses of servers of their own."""

    dsn: str
    nats_url: str
    daemon: StartDaemon
    environment: dict[str, str] = field(default_factory=dict)

    async def do(self, kind: str, block: str) -> None:
        """Do what a block says."""
        if kind == "sql":
            self._psql(block)
        else:
            for line in block.splitlines():
                await self._shell(line)

    def _psql(self, script: str) -> None:
        psql: Path = postgres_installation() / "bin" / "psql"
        command = [str(psql), "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", self.dsn]
        subprocess.run(command, input=script, text=True, env=clean_environment(), check=True)

    async def _shell(self, line: str) -> None:
        match shlex.split(line, comments=True):
            case ["pip", "install", "."]:
                pass  # test_wheel.py does
            case ["export", assignment]:
                self.environment[assignment.partition("=")[0]] = self.dsn
            case ["pgoutbox", "relay", "--nats-url", _]:
                await self.daemon("relay", "--nats-url", self.nats_url, env=self.environment)
            case ["pgoutbox", *arguments]:
                done = pgoutbox(*arguments, env=self.environment)
                assert done.returncode == 0, done.stderr
            case _:
                raise AssertionError(f"the README has a line that this test doesn't know: {line}")


async def test_example_publishes_the_messages_that_it_prints(
    empty_database: Database, servers: Servers, daemon: StartDaemon
) -> None:
    """On the subject, and to the subscription, that the text before them names."""
    blocks = BLOCK.findall(README)
    assert [kind for kind, _ in blocks] == ["sql", "shell", "sql", "messages"]
    *steps, (_, messages) = blocks
    printed = messages.splitlines()
    pattern, subject = _subscription()
    reader = Reader(empty_database.dsn, servers.nats().url, daemon)
    client = await nats.connect(reader.nats_url, allow_reconnect=False)
    try:
        subscription = await client.subscribe(pattern)
        for step in steps:
            await reader.do(*step)
        shown = [await subscription.next_msg(timeout=30) for _ in printed]
        stream = Stream("wal_listener", reader.nats_url, client.jetstream())

        async def are_stored() -> bool:
            return await stream.count() == len(printed)

        await eventually(are_stored)
        stored = await stream.messages()
    finally:
        await client.close()

    assert [message.subject for message in shown] == [subject] * len(printed)
    assert [message.data for message in shown] == [message.data for message in stored]
    elided: dict[str, str] = {}
    for line, message in zip(printed, stored, strict=True):
        _assert_equal(line, message.data.decode(), elided)
    assert len(set(elided.values())) == len(elided)


def _subscription() -> tuple[str, str]:
    """Return what the README subscribes to, and the subject on which it sees the messages."""
    found = re.search(
        r"`nats subscribe '([^']+)'`[^`]*`([^`]+)`:\n\n<!-- example: messages", README
    )
    assert found, "the README doesn't say where its messages are seen"
    return found[1], found[2]


def _assert_equal(printed: str, message: str, elided: dict[str, str]) -> None:
    """Compare all but times, and what is left out of values; ``elided`` has these so far."""
    for expected, actual in zip(TOKEN.findall(printed), TOKEN.findall(message), strict=True):
        if TIME.fullmatch(expected):
            assert TIME.fullmatch(actual), message
        elif "…" in expected:
            assert actual.endswith(expected.partition("…")[2]), message
            assert elided.setdefault(expected, actual) == actual, message
        else:
            assert actual == expected, message
