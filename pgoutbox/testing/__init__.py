"""Testing an application that has its tables captured: what did this code put into the outbox?

The events of a block, inside the test's own transaction, with no relay and no NATS::

    from pgoutbox.testing import Outbox

    def test_rename(connection):
        with Outbox(connection).emitted() as events:
            rename_user(connection, 7, "Baba Yaga")

        assert events.one("users", "UPDATE").data["name"] == "Baba Yaga"
        assert events.of("orders") == []

:mod:`pgoutbox.testing.plugin` has fixtures for pytest.
"""

from pgoutbox.testing.events import CapturedEvent, CapturedEvents
from pgoutbox.testing.outbox import Outbox

__all__ = ["CapturedEvent", "CapturedEvents", "Outbox"]
