"""What the Docker files say is true of this tree; they can't be run where there is no Docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgoutbox.cli import main
from pgoutbox.config.load import load
from pgoutbox.config.settings import Config
from pgoutbox.demo.postgres import PostgresServer
from tests.conftest import Servers, StartDaemon
from tests.support.commands import ROOT, clean_environment, pgoutbox
from tests.support.streams import Stream, nats_client
from tests.support.waiting import eventually

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def _instructions() -> Iterator[tuple[str, str]]:
    """Yield each instruction of the Dockerfile with its arguments."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, _, arguments = line.partition(" ")
            yield word, arguments.strip()


def _pgoutbox_commands() -> list[list[str]]:
    instructions = dict(_instructions())
    services = [s["command"] for s in SERVICES.values() if "build" in s]
    return [json.loads(instructions["CMD"]), *services]


@pytest.mark.parametrize("arguments", _pgoutbox_commands(), ids=shlex.join)
def test_command_line_parses(arguments: list[str]) -> None:
    group = main.make_context("pgoutbox", list(arguments))
    name, *rest = arguments

    main.commands[name].make_context(name, rest, parent=group)  # reads options; calls nothing


def test_image_runs_pgoutbox_as_an_ordinary_user() -> None:
    """By number: Kubernetes's runAsNonRoot refuses a name, which may be root's."""
    instructions = dict(_instructions())

    assert json.loads(instructions["ENTRYPOINT"]) == ["/app/entrypoint"]
    assert instructions["USER"] == "10001:10001"
    assert "useradd --uid 10001 --user-group" in instructions["RUN"]


def test_image_is_made_of_what_is_pinned() -> None:
    """The base by its digest, and each package by its hash."""
    stages = [arguments for word, arguments in _instructions() if word == "FROM"]
    runs = [arguments for word, arguments in _instructions() if word == "RUN"]

    assert re.fullmatch(r"python:3\.\d+-slim@sha256:[0-9a-f]{64} AS base", stages[0])
    assert {stage.split()[0] for stage in stages[1:]} == {"base"}
    for run in runs:
        assert "pip" in run
        assert {"--require-hashes", "--no-index", "--no-deps"} & set(run.split()), run


def test_files_that_the_image_copies_exist_and_are_not_ignored() -> None:
    copied = [shlex.split(a)[:-1] for word, a in _instructions() if word == "COPY"]
    sources = {source for sources in copied for source in sources}
    ignore = (ROOT / ".dockerignore").read_text().splitlines()

    assert all((ROOT / source).exists() for source in sources), sources
    assert "*" in ignore
    assert {source.split("/")[0] for source in sources} == {
        line[1:] for line in ignore if line.startswith("!")
    }


def test_image_brings_every_extra_but_the_demos() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    command = (ROOT / "requirements/image.txt").read_text().splitlines()[1]

    assert set(re.findall(r"--extra=(\w+)", command)) == extras - {"demo"}


def test_image_has_the_configuration_where_wal_listeners_has_it() -> None:
    """An image that is told nothing has every default; a mounted file replaces its own."""
    instructions = dict(_instructions())
    assert instructions["WORKDIR"] == "/app"
    assert instructions["ENV"] == "PGOUTBOX_CONFIG=/app/config.yml"
    assert ("COPY", "docker/config.yml docker/app docker/entrypoint ./") in _instructions()

    assert load({}, {}, ROOT / "docker/config.yml") == Config()


def test_example_in_the_images_configuration_is_valid(tmp_path: Path) -> None:
    lines = (ROOT / "docker/config.yml").read_text().splitlines()
    start = lines.index("# listener:")
    (tmp_path / "config.yml").write_text("\n".join(line[2:] for line in lines[start:]))

    found = load({}, {}, tmp_path / "config.yml")

    assert found.warnings == found.notes == ()
    assert found.install.tables == {"users": ("INSERT", "UPDATE", "DELETE")}
    assert (str(found.monitoring.health_addr), str(found.monitoring.metrics_addr)) == (
        ":8080",
        ":2112",
    )


@pytest.mark.parametrize(
    ("command", "started"),
    [
        (["relay", "--install"], "relay --install"),
        (["status", "--json"], "status --json"),
        (["pgoutbox", "status", "--json"], "status --json"),
        (["/app/app"], "relay --install"),
        (["./app", "-c", "/etc/config file.yml"], "relay --install -c /etc/config file.yml"),
    ],
)
def test_image_starts_pgoutboxs_commands_and_wal_listeners_program(
    tmp_path: Path, command: list[str], started: str
) -> None:
    (tmp_path / "pgoutbox").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "pgoutbox").chmod(0o755)
    entry_point = (ROOT / "docker/entrypoint").read_text().replace("exec /app/app", "exec ./app")

    done = subprocess.run(
        ["/bin/sh", "-c", entry_point, "entrypoint", *command],
        cwd=ROOT / "docker",
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == f"{started}\n"


def test_files_that_services_mount_exist() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            assert (ROOT / volume.split(":")[0]).exists(), (name, volume)


def test_services_know_one_another() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", [])) <= set(SERVICES), name
        assert ("image" in service) != ("build" in service), name


async def test_services_make_eight_events(
    servers: Servers, daemon: StartDaemon, tmp_path: Path
) -> None:
    """Their own commands and variables, with the names of hosts replaced."""
    postgres, nats_url = servers.postgres(), servers.nats().url
    _psql(postgres, tmp_path, postgres.dsn(), ROOT / "examples/users/create.sql")
    variables = {
        key: value.replace("@postgres/", f"@127.0.0.1:{postgres.port}/").replace(
            "nats://nats:4222", nats_url
        )
        for key, value in SERVICES["install"]["environment"].items()
    }

    installed = pgoutbox(*SERVICES["install"]["command"], env=variables)
    assert installed.returncode == 0, installed.stderr
    await daemon(*SERVICES["relay"]["command"], env=variables)
    _psql(postgres, tmp_path, variables["DATABASE_URL"], ROOT / "examples/users/upsert.sql")

    async with nats_client(nats_url) as client:
        stream = Stream("wal_listener", nats_url, client.jetstream())

        async def eight() -> bool:
            return await stream.count() == 8

        await eventually(eight, timeout=30)
        events = [json.loads(message.data) for message in await stream.messages()]
    assert [event["action"] for event in events] == ["INSERT"] * 4 + ["UPDATE"] * 4


def _psql(server: PostgresServer, folder: Path, dsn: str, file: Path) -> None:
    passwords = folder / "passwords"
    passwords.write_text(f"*:*:*:postgres:{server.password}\n*:*:*:shop:shop\n")
    passwords.chmod(0o600)
    subprocess.run(
        [server.bin / "psql", "--quiet", "-v", "ON_ERROR_STOP=1", dsn, "--file", file],
        env=clean_environment({"PGPASSFILE": str(passwords)}),
        check=True,
    )
