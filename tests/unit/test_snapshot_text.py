"""How far snapshots are, on a terminal and elsewhere."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from pgoutbox.cli.snapshot_text import Display, table_of
from pgoutbox.database.snapshots import SnapshotStatus

ONE = SnapshotStatus(
    id="0b5e7f7e-0000-4000-8000-000000000000",
    table="public.users",
    relay="default",
    state="running",
    rows=0,
    estimated_rows=1_000_000,
    last_key=None,
    where=None,
    action="READ",
    subject=None,
    rate=None,
    allow_no_key=False,
    error=None,
    detached=[],
    asked_at="2026-01-01T00:00:00+00:00",
    ended_at=None,
)


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


def _shown(stream: io.StringIO, *steps: tuple[float, dict[str, Any]]) -> str:
    now = 0.0
    display = Display(stream, clock=lambda: now)
    for seconds, values in steps:
        now = seconds
        display.show([replace(ONE, **values)])
    return stream.getvalue()


def test_a_terminal_has_a_bar_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = _shown(
        Terminal(), (0, {}), (2, {"rows": 100_000}), (3, {"rows": 1_000_000, "state": "done"})
    )

    drawn = text.split("\r")
    assert max(map(len, drawn)) <= 80
    assert "#" in drawn[-3]
    assert "100,000 of about 1,000,000 rows, 50,000/s, 0:18 left" in text
    assert drawn[-1] == "public.users: done, 1,000,000 rows by default\n"


def test_elsewhere_there_is_a_line_now_and_then() -> None:
    text = _shown(
        io.StringIO(),
        (0, {"state": "waiting"}), (11, {"state": "waiting"}), (12, {"rows": 10}),
        (22, {"rows": 1_010}), (23, {"rows": 1_010, "state": "failed", "error": "no right"}),
    )  # fmt: skip

    assert text.splitlines() == [
        "public.users: waiting for the relay default",
        "public.users: 1,010 of about 1,000,000 rows, 100/s, 166:29 left",
        "public.users: failed, 1,010 rows by default: no right",
    ]


def test_the_list_says_what_is_odd() -> None:
    text = table_of([
        replace(ONE, last_key=["7", "x\x1b"], rows=7),
        replace(ONE, state="done", detached=["public.old"], estimated_rows=None),
    ])  # fmt: skip

    assert text.splitlines()[1:] == [
        r"0b5e7f7e  public.users  default  running  7     1,000,000  at '7, x\x1b'",
        "0b5e7f7e  public.users  default  done     0     -          detached meanwhile: public.old",
    ]
