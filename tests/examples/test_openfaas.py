"""Rows in, function calls out: the example of faasd, nats-connector and a function.

All its files are the real ones; where there is no faasd, stand-ins run the function.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgoutbox.config.load import load
from pgoutbox.demo.postgres import postgres_installation
from tests.conftest import Servers, StartDaemon
from tests.examples import openfaas
from tests.support.cluster import Database
from tests.support.commands import ROOT, clean_environment, pgoutbox
from tests.support.streams import Stream
from tests.support.streams import nats_client as connect_nats
from tests.support.waiting import eventually

FOLDER = ROOT / "examples" / "openfaas"
README = (FOLDER / "README.md").read_text("utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "services.yaml").read_text())[
    "services"
]
PEOPLE = ["John Wick", "James Bond", "Elim Garak", "Sarah Walker"]


def make(*arguments: str, env: dict[str, str] | None = None) -> str:
    """Run the example's Makefile, with the psql that the tests have."""
    path = f"{postgres_installation() / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["make", *arguments],
        cwd=FOLDER,
        env={**clean_environment(env), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def faasd(tmp_path: Path) -> Path:
    """A folder like faasd's, after `make install`."""
    compose = tmp_path / "docker-compose.yaml"
    # The last line without a line break, as in some releases.
    compose.write_text("services:\n  nats: {}\n  gateway:\n    depends_on:\n      - nats")
    make("install", f"FAASD={tmp_path}", "SUDO=")
    return tmp_path


def test_install_adds_the_services_to_those_of_faasd(faasd: Path) -> None:
    def services() -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load((faasd / "docker-compose.yaml").read_text())[
            "services"
        ]
        return found

    assert services()["gateway"] == {"depends_on": ["nats"]}
    assert {name: services()[name] for name in SERVICES} == SERVICES
    make("install", f"FAASD={faasd}", "SUDO=")
    assert set(services()) == {"nats", "gateway", *SERVICES}


def test_install_brings_what_the_services_mount(faasd: Path) -> None:
    made_by_faasd = {"./postgres/pgdata", "./jetstream", "./secrets"}
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume["source"]
            assert volume["type"] == "bind", name  # faasd knows no other
            is_made = any(source.startswith(folder) for folder in made_by_faasd)
            assert is_made or (faasd / source).exists(), source


def test_services_know_one_another() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", [])) <= {"gateway", *SERVICES}, name
        assert set(service) <= {
            "image",
            "user",
            "environment",
            "command",
            "volumes",
            "ports",
            "depends_on",
        }, f"{name} has what faasd ignores"
    assert SERVICES["connector"]["environment"]["broker_host"] in SERVICES


def test_config_fits_the_services() -> None:
    read = load({}, {}, FOLDER / "pgoutbox" / "config.yml")
    postgres = SERVICES["postgresql"]["environment"]

    assert read.database.host in SERVICES
    assert read.nats.url.removeprefix("nats://").partition(":")[0] in SERVICES
    assert read.database.name == postgres["POSTGRES_DB"]
    assert read.database.password == postgres["POSTGRES_PASSWORD"]
    assert read.install.tables == {"users": ("INSERT", "UPDATE", "DELETE")}


@pytest.mark.parametrize("target", ["help", "image", "install", "restart", "deploy", "logs"])
def test_make_knows_how(target: str) -> None:
    assert make("--dry-run", target)


class Chain:
    """PostgreSQL, NATS, pgoutbox and a gateway with the example's function."""

    def __init__(
        self, database: Database, nats_url: str, gateway: openfaas.Gateway, start: StartDaemon
    ) -> None:
        self.database = database
        self.nats_url = nats_url
        self.gateway = gateway
        self._start = start

    async def begin(self, file: Path, *, installs: bool = True) -> None:
        """Do what faasd does with the services; ``file`` is pgoutbox's configuration.

        Without ``installs``, the relay has to capture the table itself.
        """
        self._psql(FOLDER / "postgres" / "initdb" / "users.sql")
        variables = {"DATABASE_URL": self.database.dsn, "PGOUTBOX_NATS_URL": self.nats_url}
        if installs:
            installed = pgoutbox("install", "--config", file, env=variables)
            assert installed.returncode == 0, installed.stderr
        mounted = SERVICES["pgoutbox"]["volumes"][0]["target"]
        program, *command = SERVICES["pgoutbox"]["command"]
        assert program == "pgoutbox"
        relay = await self._start(
            *(str(file) if word == mounted else word for word in command), env=variables
        )
        await relay.line("connected to NATS")

    def connector(self, **variables: str) -> Any:
        """Run nats-connector with the example's variables, but for ``variables``."""
        given = {**SERVICES["connector"]["environment"], "gateway_url": self.gateway.url}
        return openfaas.connector({**given, **variables}, self.nats_url)

    def upsert(self) -> None:
        """Insert four people, or update them."""
        make("init-db", f"DATABASE_URL={self.database.dsn}")

    async def calls(self, count: int) -> list[openfaas.Call]:
        """Return the calls of the function once there are ``count``."""
        await eventually(lambda: len(self.gateway.calls) >= count, timeout=30)
        return self.gateway.calls

    def _psql(self, file: Path) -> None:
        psql = postgres_installation() / "bin" / "psql"
        subprocess.run([psql, "--quiet", self.database.dsn, "--file", file], check=True)


@pytest.fixture
async def chain(
    empty_database: Database, servers: Servers, daemon: StartDaemon
) -> AsyncIterator[Chain]:
    with openfaas.serve(FOLDER / "stack.yml") as gateway:
        yield Chain(empty_database, servers.nats().url, gateway, daemon)


@pytest.mark.parametrize("asynchronous", ["false", "true"])
async def test_rows_become_calls_in_order(chain: Chain, asynchronous: str) -> None:
    await chain.begin(FOLDER / "pgoutbox" / "config.yml")
    async with chain.connector(asynchronous_invocation=asynchronous):
        for _ in range(2):
            chain.upsert()
        calls = await chain.calls(8)

    assert [call.printed for call in calls] == [
        f"wal_listener.public_users {action} users {name}\n"
        for action in ("INSERT", "UPDATE")
        for name in PEOPLE
    ]
    assert "".join(call.printed for call in calls) in README
    async with connect_nats(chain.nats_url) as client:
        stream = Stream("wal_listener", chain.nats_url, client.jetstream())
        stored = await stream.messages()
    assert [call.body for call in calls] == [message.data for message in stored]
    assert [call.response for call in calls] == [json.loads(m.data)["id"] for m in stored]


async def test_rows_become_calls_on_the_one_subject_of_the_tutorial(
    chain: Chain, tmp_path: Path
) -> None:
    """With the lines that the README has for those who come from there."""
    block = re.search(r"```yaml\n(publisher:\n.*?)```", README, re.DOTALL)
    assert block, "the README has no variant of publisher"
    settings = yaml.safe_load((FOLDER / "pgoutbox" / "config.yml").read_text())
    settings["publisher"] |= yaml.safe_load(block[1])["publisher"]
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(settings))

    await chain.begin(file, installs=False)
    async with chain.connector():
        chain.upsert()
        calls = await chain.calls(4)

    assert [call.printed for call in calls] == [
        f"sample_app INSERT users {name}\n" for name in PEOPLE
    ]


async def test_function_that_is_deployed_later_gets_what_follows(chain: Chain) -> None:
    function = chain.gateway.functions.pop("receive-event")
    await chain.begin(FOLDER / "pgoutbox" / "config.yml")
    async with chain.connector(rebuild_interval="0.1s") as connector:
        chain.upsert()
        await eventually(lambda: connector.seen == 4)
        chain.gateway.functions["receive-event"] = function
        await eventually(lambda: connector.functions)
        chain.upsert()
        calls = await chain.calls(4)

    assert [json.loads(call.body)["action"] for call in calls] == ["UPDATE"] * 4


def test_function_refuses_what_is_no_event() -> None:
    with openfaas.serve(FOLDER / "stack.yml") as gateway:
        function = gateway.functions["receive-event"]
        call = gateway.invoke(function, {"X-Topic": "sample_app"}, b"manual push")

    assert call.status == 400
    assert "manual push" in call.response
