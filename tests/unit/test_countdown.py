"""How far long work is, in words."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from pgoutbox.cli.countdown import Countdown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Iterator[float]:
    return iter([0.0, 5.0, 10.0, 20.0])


def test_elsewhere_it_is_a_line_now_and_then(clock: Iterator[float]) -> None:
    stream = io.StringIO()
    countdown = Countdown(stream, lambda: next(clock))

    for left in (3000, 2000, 1000, 0):
        countdown.show(left)

    assert stream.getvalue().splitlines() == [
        "3,000 events left",
        "1,000 events left, 200/s, 5 s to go",
    ]


def test_on_a_terminal_it_is_one_line_that_is_gone_at_the_end(clock: Iterator[float]) -> None:
    stream = Terminal()
    countdown = Countdown(stream, lambda: next(clock))

    for left in (3000, 2900, 0):
        countdown.show(left)

    clear = "\r\x1b[K"
    assert stream.getvalue() == (
        f"{clear}3,000 events left{clear}2,900 events left, 20/s, 2 min 25 s to go{clear}"
    )
