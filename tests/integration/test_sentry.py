"""What Sentry gets, what it never gets, and that the relay doesn't need it."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from nats.js import JetStreamContext

from pgoutbox import __version__
from pgoutbox.demo.process import HOST, free_port
from tests.conftest import Servers, StartDaemon
from tests.support.cluster import Database
from tests.support.commands import ROOT, clean_environment, pgoutbox
from tests.support.streams import Stream
from tests.support.waiting import eventually, unique

PASSWORD = "s3cr3t-of-mine"


class Sentry:
    """A server that takes envelopes."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                bodies.append(body.decode())
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.dsn = f"http://public@{HOST}:{self.server.server_port}/1"

    def events(self) -> list[dict[str, Any]]:
        """Return what has come so far."""
        return [json.loads(body.splitlines()[2]) for body in self.bodies]


@pytest.fixture
def sentry() -> Iterator[Sentry]:
    sentry = Sentry()
    thread = Thread(target=sentry.server.serve_forever)
    thread.start()
    yield sentry
    sentry.server.shutdown()
    sentry.server.server_close()
    thread.join()


async def _park(database: Database, servers: Servers, daemon: StartDaemon, dsn: str) -> Any:
    """Start a relay that reports to ``dsn``, and let it meet an event that NATS can't take."""
    owner = await database.connect()
    await owner.execute("create table users (id int primary key, name text)")
    assert pgoutbox("install", "--dsn", database.dsn, "--table", "users").returncode == 0
    relay = await daemon(
        *("relay", "--dsn", database.dsn, "--topic", unique("t"), "--sentry-dsn", dsn),
        *("--nats-url", servers.nats("max_payload: 65536").url, "--on-oversize", "park"),
    )
    await relay.line("leading")
    await owner.execute("insert into users values (4711, repeat('a-customers-name', 5000))")
    await relay.line("event parked")
    return relay


async def test_parked_event_is_reported_without_its_data(
    database: Database, servers: Servers, daemon: StartDaemon, sentry: Sentry
) -> None:
    relay = await _park(database, servers, daemon, sentry.dsn)

    [event] = await eventually(sentry.events)

    assert event["level"] == "error"
    assert event["logentry"]["message"] == "event parked: it cannot be published"
    assert event["release"] == f"pgoutbox@{__version__}"
    assert {"id", "reason"} <= event["extra"].keys()
    for secret in ("4711", "a-customers-name", database.dsn, ".public_users", "sys.argv"):
        assert secret not in sentry.bodies[0]
    assert await relay.stop() == 0


async def test_key_in_a_subject_is_for_the_operator_alone(
    database: Database, stream: Stream, jetstream: JetStreamContext, sentry: Sentry
) -> None:
    await jetstream.add_stream(name=stream.topic, subjects=[f"{stream.topic}.users.1"])
    owner = await database.connect()
    await owner.execute("create table users (id int primary key)")
    assert pgoutbox("install", "--dsn", database.dsn, "--table", "users").returncode == 0
    await owner.execute("insert into users values (4711)")

    done = pgoutbox(
        *("relay", "--drain", "--dsn", database.dsn, "--sentry-dsn", sentry.dsn),
        *("--nats-url", stream.url, "--topic", stream.topic, "--subject", "{topic}.{table}.{key}"),
    )

    assert done.returncode == 5
    assert f"subject: {stream.topic}.users.4711\n" in done.stderr
    assert len(sentry.events()) == 1
    assert "4711" not in sentry.bodies[0]


def test_what_ends_the_relay_is_reported_without_the_password(sentry: Sentry) -> None:
    dsn = f"postgresql://joe:{PASSWORD}@{HOST}:1/db"

    done = pgoutbox("relay", "--drain", "--dsn", dsn, "--sentry-dsn", sentry.dsn)

    assert done.returncode == 4
    [event] = sentry.events()
    [*_, exception] = event["exception"]["values"]
    assert (exception["type"], exception["module"]) == ("DatabaseError", "pgoutbox.errors")
    assert exception["value"] in done.stderr
    assert PASSWORD not in sentry.bodies[0]


def test_errors_of_python_and_drivers_are_reported_without_values(sentry: Sentry) -> None:
    program = f"""
import logging
from pgoutbox.monitoring import sentry
with sentry.reporting({sentry.dsn!r}):
    row = "a-customers-" + "name"
    logging.getLogger("asyncio").warning("slow: %s", row)
    logging.getLogger("pgoutbox.x").warning("url nats://joe:{PASSWORD}@host")
    logging.getLogger("asyncio").error("a task failed\\nfuture: %s", row)
    raise ValueError(row)
"""

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=clean_environment(), capture_output=True
    )

    assert b"ValueError: a-customers-name" in done.stderr
    logged, raised = sentry.events()
    assert logged["logentry"]["message"] == "a task failed"
    assert raised["exception"]["values"][0]["type"] == "ValueError"
    crumbs = [crumb["message"] for crumb in raised["breadcrumbs"]["values"]]
    assert crumbs == ["url nats://joe:***@host"]
    for body in sentry.bodies:
        assert "a-customers-name" not in body
        assert PASSWORD not in body


@pytest.mark.parametrize("dsn", ["nonsense", "http://secretkey@host/not-a-number", "http://h/1"])
def test_a_wrong_dsn_is_one_sentence(dsn: str) -> None:
    done = pgoutbox("relay", "--sentry-dsn", dsn)

    assert (done.returncode, done.stdout) == (2, "")
    assert "error: the DSN for Sentry is wrong" in done.stderr
    assert "Traceback" not in done.stderr
    assert "secretkey" not in done.stderr


@pytest.mark.parametrize("is_silent", [False, True])
async def test_relay_goes_on_without_sentry(
    database: Database, servers: Servers, daemon: StartDaemon, is_silent: bool
) -> None:
    """Nobody listens there, or somebody who never answers."""
    port = free_port()
    with socket.socket() as listening:
        if is_silent:
            listening.bind((HOST, port))
            listening.listen()
        relay = await _park(database, servers, daemon, f"http://public@{HOST}:{port}/1")
        assert await relay.stop() == 0

    assert "urllib3" not in relay.output
    assert "Traceback" not in relay.output
    assert relay.output.count(" ERROR ") == 1
