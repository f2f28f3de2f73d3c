"""Every recorded case, from its SQL to the payload; the relay has no part in this.

A case gives what wal-listener published, or stands in differences.json with the reasons and
what pgoutbox gives instead.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pgoutbox import schema
from tests.support import OWNER, Cluster, Database, unique

from .cases import Case, Message, assert_envelopes, deviations, load_cases, parse
from .replay import replay

CASES = {case.name: case for case in load_cases()}
DIFFERENCES = parse((Path(__file__).parent / "differences.json").read_text("utf-8"))
DOCUMENT = Path(__file__).parents[2] / "docs" / "differences.md"


@pytest.fixture
async def database(case: Case, cluster: Cluster) -> AsyncIterator[Database]:
    """A database of the case's encoding."""
    if case.encoding is None:
        database = await cluster.create_database()
    else:
        database = Database(unique("pgoutbox_test_"), cluster)
        admin = await asyncpg.connect(cluster.admin_dsn)
        await admin.execute(
            f"create database {database.name} owner {OWNER} template template0"
            f" encoding '{case.encoding}' lc_collate 'C' lc_ctype 'C'"
        )
        await admin.close()
        await schema.apply(await database.connect())
    yield database
    await cluster.drop_database(database)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_case_gives_what_was_recorded(case: Case, database: Database) -> None:
    connection = await database.connect()
    since = DIFFERENCES["since"].get(case.name, 13)
    if connection.get_server_version().major < int(since):
        pytest.skip(f"needs PostgreSQL {since}")
    difference = DIFFERENCES["cases"].get(case.name, {})

    try:
        messages, failures = await replay(case, database.connect)
    except (asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFileError) as error:
        pytest.skip(str(error))  # an extension that this server doesn't have

    assert_envelopes(case.messages, messages)
    expected = expected_messages(case, difference)
    assert deviations(expected, messages, case.volatile) == {}
    if "every_statement_succeeds" in difference:
        assert failures == {}
    else:
        assert failures == case.failing_steps


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


def test_every_difference_is_one_and_is_documented() -> None:
    document = DOCUMENT.read_text("utf-8")
    used = {reason for case in DIFFERENCES["cases"].values() for reason in case["because"]}

    assert DIFFERENCES["cases"].keys() | DIFFERENCES["since"].keys() <= CASES.keys()
    assert used == DIFFERENCES["reasons"].keys()
    for reason in DIFFERENCES["reasons"].values():
        assert f"\n- {reason}\n" in document
