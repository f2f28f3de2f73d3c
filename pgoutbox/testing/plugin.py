"""Fixtures for pytest: ``pytest_plugins = ["pgoutbox.testing.plugin"]`` in the root conftest.py.

``outbox`` needs the connection on which the application under test works. Override
``pgoutbox_connection`` with yours; with pytest-django it is Django's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgoutbox.testing.end_to_end import EmbeddedNats
from pgoutbox.testing.outbox import Outbox


@pytest.fixture
def pgoutbox_connection(request: pytest.FixtureRequest) -> Any:
    """The connection on which the application works in this test."""
    try:
        request.getfixturevalue("db")  # of pytest-django
        from django.db import connection
    except (pytest.FixtureLookupError, ImportError):
        pytest.fail("override the fixture pgoutbox_connection with your application's connection")
    return connection


@pytest.fixture
def outbox(pgoutbox_connection: Any) -> Outbox:
    """The outbox, as the application's connection sees it."""
    return Outbox(pgoutbox_connection)


@pytest.fixture(scope="session")
def pgoutbox_nats() -> Iterator[EmbeddedNats]:
    """A nats-server of its own, for tests from COMMIT to message; needs the extra demo."""
    with (
        tempfile.TemporaryDirectory(prefix="pgoutbox-nats-") as folder,
        EmbeddedNats.running(Path(folder)) as server,
    ):
        yield server
