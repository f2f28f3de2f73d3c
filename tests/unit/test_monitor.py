"""When a relay is alive, and when it is ready."""

from __future__ import annotations

import pytest

from pgoutbox.messages.event import Message
from pgoutbox.monitoring.monitor import STUCK_AFTER, Monitor


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def a_message(subject: str, table: str = "users") -> Message:
    return Message(subject, "id", b"{}", table=table)


def a_leader(**arguments: object) -> Monitor:
    monitor = Monitor(**arguments)  # type: ignore[arg-type]
    monitor.take_lead()
    monitor.passed(gaps=0, pause=1.0)
    return monitor


def test_relay_that_takes_no_step_is_dead_after_a_while() -> None:
    clock = Clock()
    monitor = Monitor(clock=clock)

    clock.now = STUCK_AFTER - 1
    assert monitor.is_alive
    clock.now = STUCK_AFTER
    assert not monitor.is_alive
    monitor.step()
    assert monitor.is_alive


def test_relay_that_said_how_long_it_waits_is_alive_meanwhile() -> None:
    clock = Clock()
    monitor = Monitor(clock=clock)

    monitor.step(pause=3600.0)

    clock.now = 3600.0
    assert monitor.is_alive
    clock.now += STUCK_AFTER
    assert not monitor.is_alive


def test_leader_is_ready_once_it_has_passed() -> None:
    monitor = Monitor()
    assert not monitor.is_ready
    monitor.take_lead()
    assert not monitor.is_ready
    monitor.passed(gaps=0, pause=1.0)
    assert monitor.is_ready


@pytest.mark.parametrize("server", ["postgresql", "nats"])
def test_leader_is_not_ready_in_an_outage_but_alive(server: str) -> None:
    monitor = a_leader()

    getattr(monitor, server).is_out = True

    assert not monitor.is_ready
    assert monitor.is_alive


def test_leader_that_lost_its_session_is_not_ready_until_it_has_passed_again() -> None:
    monitor = a_leader()

    monitor.start_over()
    assert not monitor.is_ready
    monitor.take_lead()
    assert not monitor.is_ready
    monitor.passed(gaps=0, pause=1.0)
    assert monitor.is_ready


def test_standby_needs_postgresql_only() -> None:
    monitor = Monitor()
    monitor.stand_by()

    monitor.nats.is_out = True
    assert monitor.is_ready
    monitor.postgresql.is_out = True
    assert not monitor.is_ready


@pytest.mark.parametrize("is_leader", [True, False])
def test_relay_that_stops_is_not_ready(is_leader: bool) -> None:
    monitor = a_leader()
    if not is_leader:
        monitor.stand_by()

    monitor.is_stopping = True

    assert not monitor.is_ready
    assert monitor.is_alive


def test_messages_are_counted_by_subject_and_table() -> None:
    monitor = a_leader(counts_subjects=True)

    monitor.stored([a_message("t.a", "a"), a_message("t.b", "b"), a_message("t.a", "a")], None)

    assert monitor.published == {("t.a", "a"): 2, ("t.b", "b"): 1}


def test_subjects_with_keys_are_counted_as_one() -> None:
    monitor = a_leader(counts_subjects=True, template="t.{key}")

    monitor.stored([a_message(f"t.{number}") for number in range(9)], None)

    assert monitor.published == {("t.{key}", "users"): 9}


def test_template_without_a_key_changes_no_label() -> None:
    monitor = a_leader(counts_subjects=True, template="t.{table}")

    monitor.stored([a_message("t.users")], None)

    assert monitor.published == {("t.users", "users"): 1}


def test_backlog_follows_what_is_sent_between_two_counts() -> None:
    monitor = a_leader()
    assert monitor.lead is not None

    monitor.counted(backlog=5, oldest=1.0, parked=0)
    monitor.stored([a_message("t.a")] * 3, oldest=None)
    assert monitor.lead.backlog == 2
    monitor.found(None)
    assert (monitor.lead.backlog, monitor.lead.oldest) == (0, None)


def test_latency_counts_each_event_at_the_bound_above_it() -> None:
    latency = Monitor().latency

    latency.observe(latency.bounds[0], 2)
    latency.observe(latency.bounds[0] * 1.5, 3)
    latency.observe(1e9, 4)

    assert latency.counts == [2, 3, *[0] * (len(latency.bounds) - 2), 4]
