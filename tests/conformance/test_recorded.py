"""Every recorded case, through the real commands, from its SQL to the stream.

A case gives what wal-listener published, or stands in differences.json with the reasons and
what pgoutbox gives instead.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.conftest import Servers
from tests.support.cluster import Cluster
from tests.support.commands import ROOT

from .cases import Case, Message, assert_envelopes, deviations, load_cases, parse
from .replay import TOPIC, Outcome, Replays, nats_config

FOLDER = Path(__file__).parent
CASES = {case.name: case for case in load_cases()}
DIFFERENCES = parse((FOLDER / "differences.json").read_text("utf-8"))
DOCUMENT = ROOT / "docs" / "differences.md"
STREAM = json.loads((FOLDER / "meta" / "stream_info.json").read_text("utf-8"))["config"]

# What pgoutbox puts into headers; wal-listener puts nothing there.
HEADERS = {"Nats-Msg-Id", "Nats-Expected-Last-Msg-Id", "Nats-Expected-Last-Sequence"}

NOT_BUILT_IN = "0A000"  # SQLSTATE feature_not_supported


@pytest.fixture(scope="module")
def major(cluster: Cluster) -> int:
    """The server's major version."""

    async def ask() -> int:
        connection = await asyncpg.connect(cluster.admin_dsn)
        try:
            return connection.get_server_version().major
        finally:
            await connection.close()

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def replays(
    request: pytest.FixtureRequest, session_servers: Servers, cluster: Cluster, major: int
) -> Iterator[Replays]:
    """All cases that this run is about, at work."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    cases = [call.params.get("case") for call in calls if call]
    replays = Replays(
        [case for case in cases if isinstance(case, Case) and needed_major(case) <= major],
        cluster,
        session_servers.nats(nats_config()).url,
    )
    yield replays
    replays.close()


def needed_major(case: Case) -> int:
    """Return the first major version of PostgreSQL that has what the case uses."""
    return int(DIFFERENCES["since"].get(case.name, 13))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case_gives_what_was_recorded(
    case: Case, major: int, replays: Replays, record_property: Callable[[str, object], None]
) -> None:
    if major < needed_major(case):
        pytest.skip(f"needs PostgreSQL {needed_major(case)}")
    difference = DIFFERENCES["cases"].get(case.name, {})
    record_property("conformance", "different" if difference else "as recorded")

    try:
        outcome = replays.outcome(case)
    except (asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFileError) as error:
        pytest.skip(str(error))  # an extension that this server doesn't have
    if "refused" in difference:
        assert outcome.refusal is not None
        assert outcome.refusal.code == int(difference["exit_code"])
        assert difference["refused"] in outcome.refusal.output
        return

    assert outcome.refusal is None
    if case.name in DIFFERENCES["optional"] and NOT_BUILT_IN in outcome.failing_steps.values():
        pytest.skip(f"this server is built without {DIFFERENCES['optional'][case.name]}")
    messages = [Message(message.subject, parse(message.data)) for message in outcome.stored]
    assert_envelopes(case.messages, messages)
    expected = expected_messages(case, difference)
    assert deviations(expected, messages, case.volatile) == {}
    assert outcome.failing_steps == failing_steps(case, difference)
    assert_headers(outcome)
    if not case.streams:
        assert_stream(case, outcome, difference.get("stream_subjects"))


def expected_messages(case: Case, difference: dict[str, Any]) -> list[Message]:
    """Return the recorded messages with the deliberate differences put in."""
    if "messages" in difference:
        return [Message(message["subject"], message) for message in difference["messages"]]
    messages = copy.deepcopy(case.messages)
    for place, value in difference.get("values", {}).items():
        number, _, path = place.partition(":")
        side, _, column = path.partition(".")
        assert column in messages[int(number)].payload[side]
        messages[int(number)].payload[side][column] = value
    return messages


def failing_steps(case: Case, difference: dict[str, Any]) -> dict[int, str]:
    """Return the steps that PostgreSQL refuses, with their SQLSTATE."""
    if "failing_steps" in difference:
        return {int(step): state for step, state in difference["failing_steps"].items()}
    return {} if "every_statement_succeeds" in difference else case.failing_steps


def assert_headers(outcome: Outcome) -> None:
    """Check that the headers are those of deduplication only."""
    for message in outcome.stored:
        assert message.id == json.loads(message.data)["id"]
        assert message.headers.keys() <= HEADERS


def assert_stream(case: Case, outcome: Outcome, subjects: list[str] | None) -> None:
    """Check that the stream which the relay made is the one which wal-listener makes."""
    topic = case.config.get("publisher", {}).get("topic", TOPIC)
    wanted = {**STREAM, "name": topic, "subjects": subjects or [f"{topic}.*"]}
    # The metadata hold the server's version, and what of it a client has asked for.
    assert {**(outcome.stream or {}), "metadata": {}} == {**wanted, "metadata": {}}


def test_every_difference_is_one_and_is_documented() -> None:
    used = {reason for case in DIFFERENCES["cases"].values() for reason in case["because"]}

    assert DIFFERENCES["cases"].keys() | DIFFERENCES["since"].keys() <= CASES.keys()
    assert used == DIFFERENCES["reasons"].keys()
    lines = re.findall(r"^- (.*)$", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert sorted(lines) == sorted([*DIFFERENCES["reasons"].values(), *DIFFERENCES["elsewhere"]])


@pytest.mark.parametrize("test", sorted(DIFFERENCES["elsewhere"].values()))
def test_a_difference_that_no_case_shows_has_a_test(test: str) -> None:
    file, _, name = test.partition("::")
    assert re.search(rf"def {name}\b", (ROOT / file).read_text("utf-8"))
