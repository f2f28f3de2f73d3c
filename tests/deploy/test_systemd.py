"""The unit is one that systemd takes and finds safe, and its relay reports as the unit expects."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from pgoutbox.errors import ConfigError
from tests.conftest import Servers, StartDaemon
from tests.deploy.tools import run
from tests.support.cluster import Database
from tests.support.commands import ROOT
from tests.support.systemd import Systemd
from tests.support.waiting import unique

UNIT = ROOT / "deploy" / "systemd" / "pgoutbox.service"
TEXT = UNIT.read_text("utf-8")
PAGE = (ROOT / "docs" / "deploying.md").read_text("utf-8")


def values(name: str) -> list[str]:
    """Return what the unit sets a directive to."""
    return re.findall(rf"^{name}=(.*)$", TEXT, re.MULTILINE)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """With a program that is there; verify wants to see it."""
    unit = tmp_path / UNIT.name
    unit.write_text(TEXT.replace("/opt/pgoutbox/bin/pgoutbox", sys.executable))

    said = run("systemd-analyze", "verify", unit)

    assert said == ""


def test_systemd_finds_the_unit_safe() -> None:
    """An exposure of 1.5 of 10 at most; what remains is mostly that it talks to servers."""
    run("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", UNIT)


def test_drop_in_of_the_page_is_one_that_systemd_takes(tmp_path: Path) -> None:
    (drop_in,) = re.findall(r"^```ini\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    unit = tmp_path / UNIT.name
    text = TEXT + drop_in
    unit.write_text(text.replace("/opt/pgoutbox/bin/pgoutbox", sys.executable))

    assert run("systemd-analyze", "verify", unit) == ""


def test_wrong_settings_are_not_tried_again() -> None:
    assert values("RestartPreventExitStatus") == [str(ConfigError.exit_code)]
    assert values("Restart") == ["always"]


def test_page_names_the_files_of_the_unit() -> None:
    for path in (*values("EnvironmentFile"), shlex.split(values("ExecStart")[0])[0]):
        assert path in PAGE


async def test_relay_reports_ready_what_it_does_and_that_it_stops(
    servers: Servers,
    database: Database,
    daemon: StartDaemon,
    systemd: Systemd,
) -> None:
    nats = servers.nats()
    (_, *arguments) = shlex.split(values("ExecStart")[0])
    assert values("Type") == ["notify"]
    settings = {
        "PGOUTBOX_DSN": database.dsn,
        "PGOUTBOX_NATS_URL": nats.url,
        "PGOUTBOX_TOPIC": unique("t"),
    }

    relay = await daemon(
        *arguments,
        env={**settings, "NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "2000000"},
    )
    await systemd.hears("READY=1")
    await systemd.hears("STATUS=Leading; 0 events unsent")
    await systemd.hears("WATCHDOG=1")
    nats.kill()
    await systemd.hears("STATUS=NATS unavailable; retrying; 0 events unsent")
    await systemd.hears("WATCHDOG=1")
    nats.start()
    await systemd.hears("STATUS=Leading; 0 events unsent")

    assert await relay.stop() == 0
    await systemd.hears("STOPPING=1")


async def test_relay_without_a_server_is_ready_and_alive(
    daemon: StartDaemon,
    systemd: Systemd,
) -> None:
    """An outage is no reason to end it, nor to keep other units waiting."""
    await daemon(
        *("relay", "--dsn", "postgresql://nobody@127.0.0.1:1/none"),
        env={"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "2000000"},
    )

    await systemd.hears("READY=1")
    await systemd.hears("STATUS=PostgreSQL unavailable; retrying")
    await systemd.hears("WATCHDOG=1")
