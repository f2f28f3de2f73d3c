"""What is said of an outage: its begin, its end, and now and then another reason."""

from __future__ import annotations

import itertools
import logging
import time

import pytest

from pgoutbox.relay.outage import Outage


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, whose last entry counts."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[-1])
    return clock


def test_reasons_that_alternate_for_an_hour_fill_no_log(
    now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    outage = Outage("fails", "works")
    reasons = itertools.cycle(["refused", "timed out", "reset"])
    for second in range(0, 3_600, 5):
        now.append(second)
        outage.begin(OSError(next(reasons)))
    outage.end()

    assert 3 <= caplog.messages.count("fails") <= 10
    assert caplog.messages[-1] == "works"


def test_each_outage_is_said_anew(now: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outage = Outage("fails", "works")
    for second in (0.0, 1.0, 40.0, 110.0):
        now.append(second)
        outage.begin(OSError("refused"))
        outage.begin(OSError("refused"))
        outage.end()
        outage.end()

    assert caplog.messages == ["fails", "works"] * 4
