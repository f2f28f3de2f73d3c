"""PostgreSQL's time between two looks at its clock."""

from __future__ import annotations

import time

import pytest

from pgoutbox.monitoring.server_clock import ServerClock

from .test_monitor import Clock

NOW = 1_795_829_678.0  # PostgreSQL's, in seconds since the epoch


def test_ages_go_by_postgresqls_clock_whatever_ours_says(monkeypatch: pytest.MonkeyPatch) -> None:
    steady = Clock()
    server = ServerClock(steady)
    server.told(NOW, asked_at=0.0)

    for ours in (0.0, NOW - 86_400, NOW + 86_400):
        monkeypatch.setattr(time, "time", lambda ours=ours: ours)
        assert server.now() == NOW
    steady.now = 5.0
    assert server.age(NOW - 2) == 7.0
    assert server.age(NOW + 6) == 0.0
    assert server.age(None) == 0.0


def test_a_clock_that_was_set_is_known_after_the_next_look() -> None:
    steady = Clock()
    server = ServerClock(steady)
    server.told(NOW, asked_at=0.0)

    steady.now = 10.0
    server.told(NOW - 3_600, asked_at=10.0)

    assert server.now() == NOW - 3_600


def test_an_answer_that_took_long_moves_nothing() -> None:
    steady = Clock()
    server = ServerClock(steady)
    server.told(NOW, asked_at=0.0)

    steady.now = 9.0
    server.told(NOW + 8, asked_at=1.0)

    assert server.now() == NOW + 9


def test_ours_has_to_do_until_the_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)

    assert ServerClock(Clock()).age(NOW - 3) == 3.0
