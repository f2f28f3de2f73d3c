"""What the relay tells on its ports, in every state that it can be in."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from pgoutbox.demo.process import HOST, free_port
from pgoutbox.monitoring.metrics import METRICS
from tests.conftest import Servers, StartDaemon
from tests.support.cluster import Database
from tests.support.commands import ROOT, Daemon, pgoutbox
from tests.support.http import ask, status
from tests.support.streams import Stream, nats_client
from tests.support.waiting import eventually, unique

RECORDED = (ROOT / "tests/conformance/meta/metrics.txt").read_text()
THEIRS = ("published_events", "problematic_events", "filter_skipped_events")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
Fact = Callable[[], Coroutine[Any, Any, bool]]


class Watched:
    """A relay, and what it says of itself."""

    def __init__(self, process: Daemon, health: int, metrics: int) -> None:
        self.process = process
        self.health = health
        self.metrics = metrics

    async def probes(self) -> tuple[int, int]:
        """Return the statuses of /healthz and /ready."""
        return await status(self.health, "/healthz"), await status(self.health, "/ready")

    async def become(self, healthz: int, ready: int) -> None:
        """Wait until the probes answer like this."""

        async def fact() -> bool:
            return await self.probes() == (healthz, ready)

        await eventually(fact, timeout=30)

    async def samples(self) -> Samples:
        """Return all metrics."""
        scraped = await ask(self.metrics, "/metrics")
        assert scraped.status == 200
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(scraped.body)
            for sample in family.samples
        }

    async def value(self, name: str, **labels: str) -> float | None:
        """Return one metric, of relay default unless named; None where there is none."""
        labels.setdefault("relay", "default")
        return (await self.samples()).get((name, frozenset(labels.items())))

    def has(self, name: str, wanted: Callable[[float], bool], **labels: str) -> Fact:
        """Return a fact for :func:`eventually` about one metric."""

        async def fact() -> bool:
            value = await self.value(name, **labels)
            return value is not None and wanted(value)

        return fact


async def watched(
    daemon: StartDaemon, dsn: str, nats_url: str, topic: str, *more: str | Path
) -> Watched:
    """Start a relay with both ports open."""
    health, metrics = free_port(), free_port()
    process = await daemon(
        *("relay", "--dsn", dsn, "--nats-url", nats_url, "--topic", topic),
        *("--health-addr", str(health), "--metrics-addr", f"{HOST}:{metrics}", *more),
    )
    await process.line(f"listening addr={HOST}:{metrics}")
    return Watched(process, health, metrics)


async def capture(database: Database, *tables: str) -> None:
    owner = await database.connect()
    for table in tables:
        await owner.execute(f"create table {table} (id int primary key, text text)")
    flags = [word for table in tables for word in ("--table", table)]
    assert pgoutbox("install", "--dsn", database.dsn, *flags).returncode == 0


def positive(value: float) -> bool:
    return value > 0


async def test_probes_through_every_outage(servers: Servers, daemon: StartDaemon) -> None:
    """Not ready while either server is away, and never to be killed for that."""
    cluster = await servers.cluster()
    assert cluster.server is not None
    database = await cluster.create_database()
    await database.disconnect()
    nats, topic = servers.nats(), unique("t")
    cluster.server.stop()

    relay = await watched(daemon, database.dsn, nats.url, topic)
    await relay.process.line("PostgreSQL unavailable")
    assert await relay.probes() == (200, 503)
    assert await relay.value("pgoutbox_outage", server="postgresql") == 1

    cluster.server.start()
    await relay.become(200, 200)
    assert await relay.value("pgoutbox_leader") == 1
    assert await relay.value("pgoutbox_outage", server="postgresql") == 0

    nats.kill()
    await relay.become(200, 503)
    assert await relay.value("pgoutbox_outage", server="nats") == 1
    nats.start()
    await relay.become(200, 200)
    assert await relay.value("pgoutbox_outages_total", server="nats") == 1

    cluster.server.stop()
    await relay.become(200, 503)
    assert await relay.value("pgoutbox_leader") == 0
    cluster.server.start()
    await relay.become(200, 200)
    assert await relay.value("pgoutbox_reconnects_total", server="postgresql") == 1
    assert await relay.process.stop() == 0


async def test_unsent_events_grow_older_while_nats_is_away(
    servers: Servers, database: Database, daemon: StartDaemon
) -> None:
    """Also those that are committed only then: nothing else tells that they pile up."""
    await capture(database, "users")
    nats = servers.nats()
    relay = await watched(daemon, database.dsn, nats.url, unique("t"))
    await relay.become(200, 200)
    assert await relay.value("pgoutbox_oldest_unsent_seconds") == 0

    nats.kill()
    await relay.become(200, 503)
    owner = await database.connect()
    await owner.execute("insert into users select generate_series(1, 3)")

    await eventually(relay.has("pgoutbox_backlog_events", lambda count: count == 3), timeout=30)
    age = await relay.value("pgoutbox_oldest_unsent_seconds")
    assert age is not None
    await eventually(relay.has("pgoutbox_oldest_unsent_seconds", lambda older: older > age > 0))

    nats.start()
    await eventually(relay.has("pgoutbox_backlog_events", lambda count: count == 0), timeout=30)
    assert await relay.value("pgoutbox_oldest_unsent_seconds") == 0
    assert await relay.value("pgoutbox_events_published_total") == 3


async def test_relay_that_stops_is_alive_and_not_ready(
    servers: Servers, database: Database, daemon: StartDaemon
) -> None:
    """While it waits for the acknowledgements of what is on its way."""
    await capture(database, "users")
    nats = servers.nats()
    relay = await watched(
        daemon, database.dsn, nats.url, unique("t"), "--ack-timeout", "60", "--grace-period", "60"
    )
    await relay.become(200, 200)
    owner = await database.connect()
    nats.send_signal(signal.SIGSTOP)
    try:
        await owner.execute("insert into users values (1)")
        await eventually(relay.has("pgoutbox_oldest_unsent_seconds", positive))
        relay.process.send_signal(signal.SIGTERM)
        await relay.become(200, 503)
    finally:
        nats.send_signal(signal.SIGCONT)

    assert await relay.process.wait() == 0


async def test_standby_is_ready_and_takes_over(
    database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    """Else a rolling update, which starts the new one first, would never end."""
    first = await watched(daemon, database.dsn, stream.url, stream.topic)
    await first.become(200, 200)
    second = await watched(daemon, database.dsn, stream.url, stream.topic)
    await second.become(200, 200)
    assert await second.value("pgoutbox_standby") == 1
    assert await second.value("pgoutbox_leader") == 0
    assert await second.value("pgoutbox_backlog_events") is None

    await first.process.kill()

    await eventually(second.has("pgoutbox_leader", positive), timeout=30)
    await second.become(200, 200)
    assert await second.value("pgoutbox_standby") == 0


async def test_standby_whose_server_comes_back_is_ready_again(
    servers: Servers, stream: Stream, daemon: StartDaemon
) -> None:
    cluster = await servers.cluster()
    assert cluster.server is not None
    database = await cluster.create_database()
    relays = [await watched(daemon, database.dsn, stream.url, stream.topic) for _ in range(2)]
    for relay in relays:
        await relay.become(200, 200)

    cluster.server.stop()
    for relay in relays:
        await relay.become(200, 503)
    cluster.server.start()
    for relay in relays:
        await relay.become(200, 200)
    roles = [await relay.value("pgoutbox_standby") for relay in relays]
    assert sorted(map(str, roles)) == ["0.0", "1.0"]


async def test_relay_that_hangs_does_not_answer(
    database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    relay = await watched(daemon, database.dsn, stream.url, stream.topic)
    await relay.become(200, 200)

    relay.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            await ask(relay.health, "/healthz", timeout=0.5)
    finally:
        relay.process.send_signal(signal.SIGCONT)

    await relay.become(200, 200)


async def test_metrics_of_wal_listener_after_events(
    servers: Servers, database: Database, daemon: StartDaemon
) -> None:
    """By name, type, help and labels; and what a parked event adds to each count."""
    await capture(database, "users", "notes")
    nats, topic = servers.nats("max_payload: 65536"), unique("t")
    relay = await watched(daemon, database.dsn, nats.url, topic)
    owner = await database.connect()
    await owner.execute("insert into users select generate_series(1, 8)")
    await owner.execute("insert into notes values (1, 'small'), (2, repeat('x', 100000))")
    await owner.execute("insert into notes values (3, 'small')")

    await eventually(
        relay.has("pgoutbox_events_published_total", lambda count: count == 10), timeout=30
    )
    async with nats_client(nats.url) as client:
        assert await Stream(topic, nats.url, client.jetstream()).count() == 10
    samples = await relay.samples()
    published = {key: value for key, value in samples.items() if key[0].startswith("published")}
    assert published == {
        _published(f"{topic}.public_users", 8, samples): 8,
        _published(f"{topic}.public_notes", 2, samples): 2,
    }
    problem = frozenset({"app": "wal-listener", "kind": "publish"}.items())
    assert samples["problematic_events_total", problem] == 1
    ours = frozenset({"relay": "default"}.items())
    assert samples["pgoutbox_parked_events", ours] == 1
    assert samples["pgoutbox_publish_latency_seconds_count", ours] == 10
    assert samples["pgoutbox_backlog_events", ours] == 0
    assert time.time() >= samples["pgoutbox_last_success_timestamp_seconds", ours] > 0


def _published(subject: str, count: int, samples: Samples) -> tuple[str, frozenset[Any]]:
    """Return the key of the published events of a subject, with whatever table it has."""
    return next(
        key
        for key, value in samples.items()
        if key[0] == "published_events_total"
        and dict(key[1]).get("subject") == subject
        and dict(key[1]).keys() == {"app", "subject", "table"}
        and dict(key[1])["app"] == "wal-listener"
        and dict(key[1])["table"] in ("", subject.rpartition("_")[2])
        and value == count
    )


def _heads(text: str) -> Iterator[str]:
    """Yield the lines of a scrape that say what a metric is."""
    return (line for line in text.splitlines() if line.startswith("# "))


async def test_metrics_are_what_wal_listener_calls_them(
    database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    """But for the process's traffic and limit of memory, which the Python client hasn't."""
    relay = await watched(daemon, database.dsn, stream.url, stream.topic)

    scraped = await ask(relay.metrics, "/metrics")

    assert scraped.headers["Content-Type"].startswith("text/plain; version=")
    lacking = ("process_network_", "process_virtual_memory_max_bytes")
    theirs = {head for head in _heads(RECORDED) if not head.split()[2].startswith(lacking)}
    assert theirs <= set(_heads(scraped.body))
    assert {metric.name for metric in METRICS} <= {head.split()[2] for head in _heads(scraped.body)}
    recorded = text_string_to_metric_families(RECORDED)
    labels = {family.name: family.samples[0].labels for family in recorded}
    for metric in METRICS:
        name = metric.name.removesuffix("_total")
        if name in labels:
            assert dict.fromkeys(metric.labels) == dict.fromkeys(labels[name])


async def test_relays_are_told_apart_by_name(
    database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    """In every metric of pgoutbox's own; wal-listener's have the labels that they have there."""
    relays = [
        await watched(daemon, database.dsn, stream.url, stream.topic, "--name", name)
        for name in ("audit", "shop")
    ]

    for relay, name in zip(relays, ("audit", "shop"), strict=True):
        await relay.become(200, 200)
        samples = await relay.samples()
        labels = {key[0]: dict(key[1]).get("relay") for key in samples}
        of_others = ("pgoutbox_relay_backlog_events", "pgoutbox_relay_oldest_unsent_seconds")
        own = {
            label
            for metric, label in labels.items()
            if metric.startswith("pgoutbox_") and metric not in of_others
        }
        assert own == {name}
        others = {label for metric, label in labels.items() if not metric.startswith("pgoutbox_")}
        assert others == {None}


async def test_prometheus_gets_the_format_that_it_asks_for(
    database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    relay = await watched(daemon, database.dsn, stream.url, stream.topic)
    accepted = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.2"

    scraped = await ask(relay.metrics, "/metrics", accept=accepted)

    assert scraped.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = openmetrics.text_string_to_metric_families(  # type: ignore[no-untyped-call]
        scraped.body
    )
    assert {metric.name.removesuffix("_total") for metric in METRICS} <= {
        family.name for family in families
    }


async def test_answers_hold_neither_addresses_nor_rows(
    database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    await capture(database, "users")
    relay = await watched(daemon, database.dsn, stream.url, stream.topic)
    owner = await database.connect()
    await owner.execute("insert into users values (4711, 'a-customers-name')")
    await eventually(relay.has("pgoutbox_events_published_total", positive))

    body = (await ask(relay.metrics, "/metrics")).body

    for secret in ("4711", "a-customers-name", "postgresql://", "nats://", database.name):
        assert secret not in body
    assert await status(relay.health, "/metrics") == 404
    assert await status(relay.metrics, "/healthz") == 404


async def test_both_on_one_address(
    database: Database, stream: Stream, daemon: StartDaemon, tmp_path: Path
) -> None:
    """In wal-listener's words; there the second one would not come up."""
    port = free_port()
    file = tmp_path / "config.yml"
    file.write_text(
        f"listener:\n  serverPort: {port}\nmonitoring:\n  promAddr: ':{port}'\n", "utf-8"
    )

    relay = await daemon(
        *("relay", "-c", file, "--dsn", database.dsn),
        *("--nats-url", stream.url, "--topic", stream.topic),
    )
    await relay.line("listening")

    assert await status(port, "/healthz") == 200
    assert await status(port, "/metrics") == 200


async def test_port_that_is_taken_is_one_line_and_hinders_no_relay(
    database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    relay = await watched(daemon, database.dsn, stream.url, stream.topic)
    settings = ("--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic)
    again = ("relay", *settings, "--name", "other", "--health-addr", str(relay.health))
    metrics = free_port()

    other = await daemon(*again, "--metrics-addr", str(metrics))
    said = await other.line(" ERROR ")
    await other.line("connected to NATS")
    assert await status(metrics, "/metrics") == 200
    assert await other.stop() == 0
    drained = pgoutbox(*again, "--drain")

    assert f"can't listen at {HOST}:{relay.health}: Address already in use" in said
    assert other.output.count(" ERROR ") == 1
    assert "Traceback" not in other.output
    assert (drained.returncode, "ERROR" in drained.stderr) == (0, False), drained.stderr


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("prometheus_client", "metrics", ("--metrics-addr", "9")),
        ("sentry_sdk", "sentry", ("--sentry-dsn", "http://key@127.0.0.1:9/1")),
    ],
)
def test_missing_extra_is_named(
    tmp_path: Path, package: str, extra: str, arguments: tuple[str, ...]
) -> None:
    (tmp_path / f"{package}.py").write_text("raise ImportError('not installed')")

    done = pgoutbox(
        *("relay", "--dsn", "postgresql://x@127.0.0.1:1/x", *arguments),
        env={"PYTHONPATH": str(tmp_path)},
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(rf"^hint: .*pip install 'pgoutbox\[{extra}\]'", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
