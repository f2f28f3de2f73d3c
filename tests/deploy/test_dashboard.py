"""The dashboard's queries find something, in a real Prometheus that scrapes real relays."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from pgoutbox.demo.process import HOST, free_port
from tests.conftest import Servers, StartDaemon
from tests.deploy.prometheus import Prometheus
from tests.support.cluster import Database
from tests.support.commands import ROOT, pgoutbox
from tests.support.waiting import eventually, unique
from tests.unit.test_dashboard import PANELS, queries

FOLDER = ROOT / "deploy" / "grafana"


def filled(query: str) -> str:
    """Return a query as Grafana sends it for all jobs and relays."""
    text = query.replace("$__rate_interval", "10s").replace("$job", ".*").replace("$relay", ".*")
    assert "$" not in text
    return text


def labels_of(legend: str) -> set[str]:
    return set(re.findall(r"\{\{(\w+)\}\}", legend))


async def relays(
    servers: Servers, database: Database, daemon: StartDaemon, folder: Path
) -> list[int]:
    """Start a leader, its standby, and a relay with a filter; return their ports of metrics."""
    filtered = folder / "config.yml"
    filtered.write_text("listener: {slotName: users-only, filter: {tables: {users: [insert]}}}\n")
    nats = servers.nats("max_payload: 65536")
    ports = [free_port() for _ in range(3)]
    for port, more in zip(ports, ((), (), ("--config", filtered)), strict=True):
        relay = await daemon(
            *("relay", "--dsn", database.dsn, "--nats-url", nats.url),
            *("--topic", unique("t"), "--metrics-addr", f"{HOST}:{port}", *more),
            *("--on-oversize", "park"),
        )
        await relay.line("standing by" if port == ports[1] else "connected to NATS")
    return ports


async def test_every_query_finds_something(
    servers: Servers, database: Database, daemon: StartDaemon, tmp_path: Path
) -> None:
    """With events that are published, left out by a filter, and parked, and a snapshot."""
    owner = await database.connect()
    await owner.execute("create table users (id serial primary key, text text)")
    await owner.execute("create table notes (id serial primary key, text text)")
    installed = pgoutbox("install", "--dsn", database.dsn, "--table", "users", "--table", "notes")
    assert installed.returncode == 0, installed.stderr
    ports = await relays(servers, database, daemon, tmp_path)

    with Prometheus(tmp_path / "prometheus", {"shop": ports}) as prometheus:
        await owner.execute("insert into notes (text) values (repeat('x', 100000))")
        asked = pgoutbox("snapshot", "start", "users", "--detach", "--dsn", database.dsn)
        assert asked.returncode == 0, asked.stderr

        async def all_answer() -> bool:
            await owner.execute("insert into users (text) values ('a')")
            await owner.execute("insert into notes (text) values ('a')")
            for title, query in queries():
                found = await prometheus.query(filled(query))
                numbers = [float(series["value"][1]) for series in found]
                assert [number for number in numbers if not math.isnan(number)], (title, query)
            return True

        await eventually(all_answer, timeout=60, pause=0.2)

        for panel in PANELS:
            for target in panel["targets"]:
                for series in await prometheus.query(filled(target["expr"])):
                    assert labels_of(target["legendFormat"]) <= series["metric"].keys()
        assert await prometheus.values_of("job", "pgoutbox_leader") == ["shop"]
        assert await prometheus.values_of("relay", 'pgoutbox_leader{job=~"shop"}') == [
            *("default", "users-only"),
        ]

        async def is_as_it_should_be() -> bool:
            return await prometheus.firing() == {"PgoutboxEventsParked"}

        await eventually(is_as_it_should_be, timeout=30)


async def test_prometheus_of_compose_takes_the_files_as_they_are(tmp_path: Path) -> None:
    """All alerts, and the relay's address inside of compose."""
    alerts = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())

    with Prometheus(tmp_path / "prometheus") as prometheus:

        async def knows_the_relay() -> bool:
            return await prometheus.scraped() == ["http://relay:2112/metrics"]

        await eventually(knows_the_relay)
        assert await prometheus.rules() == [
            rule["alert"] for group in alerts["groups"] for rule in group["rules"]
        ]


def test_compose_gives_grafana_and_prometheus_what_they_read() -> None:
    """Folders where Grafana looks, and addresses that are services of the file."""
    services = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    (provider,) = _provisioned("dashboards/pgoutbox.yaml")["providers"]
    (source,) = _provisioned("datasources/prometheus.yaml")["datasources"]
    (scraped,) = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())[
        "scrape_configs"
    ]

    assert mounts == {
        "./deploy/grafana/provisioning": "/etc/grafana/provisioning",
        "./deploy/grafana/dashboards": provider["options"]["path"],
    }
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    (target,) = scraped["static_configs"][0]["targets"]
    name, _, port = target.partition(":")
    assert services[name]["environment"]["PGOUTBOX_METRICS_ADDR"] == f":{port}"
    assert services["grafana"]["profiles"] == services["prometheus"]["profiles"] == ["monitoring"]


def _provisioned(path: str) -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "provisioning" / path).read_text("utf-8")))
