"""What a window of messages makes of the answers to them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pgoutbox.errors import Interrupted, Refused
from pgoutbox.messages.event import Message
from pgoutbox.nats.ingest import Answer, IngestBatch
from pgoutbox.nats.window import Repeat, Window

CONFIRMATIONS = (b'{"stream":"s","seq":',)
MESSAGES = [Message("s.t", f"m{number}", b"{}") for number in range(10)]


def window_of(*asking: int, count: int = 4, sequence: int | None = 100, **options: bool) -> Window:
    """Return a window of messages in flight behind ``sequence``; all ask unless some are named."""
    window = Window(1_000, CONFIRMATIONS, MESSAGES[:count], sequence, **options)
    window.extend(count, asking or range(count))
    return window


def ack(sequence: int, **more: Any) -> bytes:
    return json.dumps({"stream": "s", "seq": sequence, **more}, separators=(",", ":")).encode()


def error(code: int, description: str = "wrong") -> bytes:
    return json.dumps({"error": {"err_code": code, "description": description}}).encode()


def test_acknowledgements_count_from_the_first_without_a_hole() -> None:
    window = window_of()
    window.on_ack(1_001, ack(102))
    assert window.confirmed == 0
    window.on_ack(1_000, ack(101))
    assert (window.confirmed, window.sequence) == (2, 102)
    assert not window.is_settled(3)


def test_answers_to_earlier_windows_are_ignored() -> None:
    window = window_of()
    window.on_ack(999, ack(101))
    window.on_ack(998, error(10077))
    assert (window.confirmed, window.is_broken) == (0, False)


@pytest.mark.parametrize(("sequence", "confirmed"), [(104, 4), (103, 0), (105, 0)])
def test_one_answer_covers_those_before_it_if_the_stream_has_grown_by_them(
    sequence: int, confirmed: int
) -> None:
    window = window_of(3)
    window.on_ack(1_003, ack(sequence))
    assert window.confirmed == confirmed
    assert window.is_chain_broken == (confirmed == 0)


@pytest.mark.parametrize(
    ("answer", "confirmed"),
    [
        (ack(104, count=4), 4),
        (ack(144, count=4), 4),  # others have published, too
        (ack(103, count=4), 0),  # one was a repeat, whose original a change of leader may lose
        (ack(0, count=4), 0),
        (ack(104, count=3), 0),
        (ack(104, count=4, duplicate=True), 0),
    ],
)
def test_atomic_batch_counts_if_it_is_whole_and_the_stream_has_grown_by_it(
    answer: bytes, confirmed: int
) -> None:
    window = window_of(3, in_batches=True)
    window.on_ack(1_003, answer)
    assert window.confirmed == confirmed


def fast_batch() -> Window:
    window = Window(1_000, CONFIRMATIONS, MESSAGES[:4], 100, in_batches=True)
    window.begin(IngestBatch(0, 4))
    return window


@pytest.mark.parametrize(
    ("answer", "confirmed"),
    [(ack(104, count=4), 4), (ack(150, count=4), 4), (ack(103, count=4), 0), (ack(0, count=4), 0)],
)
def test_fast_batch_counts_if_the_stream_has_grown_by_it(answer: bytes, confirmed: int) -> None:
    window = fast_batch()
    window.on_batch(Answer(1_000, 4), answer)
    assert window.confirmed == confirmed
    assert window.is_settled(4)


def test_fast_batch_that_a_message_ends_names_that_message() -> None:
    window = fast_batch()
    refusal = json.dumps({"type": "err", "seq": 3, **json.loads(error(10054, "too large"))})
    window.on_batch(Answer(1_000, 3), refusal.encode())
    window.on_batch(Answer(1_000, 3), ack(102, count=2))
    assert window.confirmed == 2
    assert isinstance(window.refusal, Refused)
    assert not window.is_chain_broken


def test_fast_batch_that_is_refused_at_its_first_message_tells_the_end_of_the_stream() -> None:
    window = fast_batch()
    window.on_batch(Answer(1_000, 1), error(10071, "wrong last sequence: 117"))
    for position in (2, 3, 4):
        window.on_batch(Answer(1_000, position), error(10208, "unknown batch"))
    assert (window.confirmed, window.stream_end, window.is_misplaced) == (0, 117, True)


def test_progress_of_a_fast_batch_is_a_sign_of_life_only() -> None:
    window = fast_batch()
    window.on_batch(Answer(1_000, 2), b'{"type":"ack","seq":2,"msgs":2}')
    assert (window.signs, window.confirmed) == (2, 0)


def test_answer_to_another_batch_is_ignored() -> None:
    window = fast_batch()
    window.on_batch(Answer(996, 4), ack(104, count=4))
    assert window.confirmed == 0


def test_refusal_counts_for_the_first_message_refused() -> None:
    window = window_of()
    window.on_ack(1_002, error(10054, "too large"))
    window.on_ack(1_001, error(10077, "full"))
    window.on_ack(1_000, ack(101))
    assert window.is_refused_next
    assert isinstance(window.refusal, Interrupted)
    assert "full" in str(window.refusal)


def test_answer_of_something_else_confirms_nothing() -> None:
    window = window_of()
    window.on_ack(1_000, b'{"stream":"other","seq":101}')
    assert window.confirmed == 0
    assert "something other than the stream: from stream 'other'" in str(window.refusal)


def test_repeat_counts_as_stored_before_anything_is_stored_as_new() -> None:
    """A predecessor has published it."""
    window = window_of()
    window.on_ack(1_000, ack(42, duplicate=True))
    assert (window.confirmed, window.is_repeat, window.has_stored) == (1, True, False)


def test_repeat_behind_a_message_stored_as_new_waits_until_it_is_accepted() -> None:
    window = window_of()
    window.on_ack(1_001, ack(42, duplicate=True))
    window.on_ack(1_002, ack(43, duplicate=True))
    window.on_ack(1_000, ack(101))
    assert (window.confirmed, window.has_repeats) == (1, True)
    assert list(window.repeats()) == [Repeat(1, 42), Repeat(2, 43)]
    window.accept(1)
    assert (window.confirmed, window.has_repeats) == (2, True)
    window.accept(2)
    assert (window.confirmed, window.has_repeats) == (3, False)


def test_stream_named_like_a_field_of_an_answer_has_no_repeats() -> None:
    window = Window(0, (b'{"stream":"duplicate","seq":',), MESSAGES[:1], 100, has_stored=True)
    window.extend(1, [0])
    window.on_ack(0, b'{"stream":"duplicate","seq":101}')
    assert (window.confirmed, window.is_repeat) == (1, False)


async def test_change_is_announced_when_what_was_awaited_is_known() -> None:
    window = window_of()
    changed = window.changed(2)
    window.on_ack(1_000, ack(101))
    assert not changed.done()
    window.on_ack(1_001, ack(102))
    assert changed.done()
