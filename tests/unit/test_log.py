"""Log lines: one a record, as text or JSON, and never a reason to stop."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from datetime import UTC, datetime

from pgoutbox.log import JsonFormatter, TextFormatter
from tests.support.commands import ROOT


def a_record(message: str = "batch published", **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("pgoutbox.relay", logging.INFO, "f", 1, message, (), None)
    record.created = datetime(2026, 11, 23, 5, 25, 36, 518_000, tzinfo=UTC).timestamp()
    vars(record).update(extra)
    return record


def test_text_has_time_level_message_and_fields() -> None:
    line = TextFormatter().format(a_record(events=3, lag_s=0.25))

    assert line == "2026-11-23T05:25:36.518Z INFO batch published events=3 lag_s=0.25"


def test_text_quotes_values_that_would_be_read_as_several() -> None:
    line = TextFormatter().format(a_record(error='no "such" host', empty="", lines="a\nb"))

    assert line.endswith(r'error="no \"such\" host" empty="" lines="a\nb"')


def test_text_is_one_line_whatever_the_message() -> None:
    assert "\n" not in TextFormatter().format(a_record("forged\n2026 INFO line"))


def test_json_has_the_fields_of_the_record() -> None:
    entry = json.loads(JsonFormatter().format(a_record("ä\n", events=3, at=datetime.now(UTC))))

    assert list(entry) == ["time", "level", "msg", "version", "logger", "events", "at"]
    assert (
        entry["time"],
        entry["level"],
        entry["msg"],
        entry["events"],
    ) == ("2026-11-23T05:25:36.518Z", "INFO", "ä\n", 3)


def test_json_is_what_wal_listener_writes() -> None:
    """Its keys first and in its order, its names of levels, times as in RFC 3339."""
    lines = (ROOT / "tests/conformance/meta/log.jsonl").read_text("utf-8").splitlines()
    recorded = [json.loads(line) for line in lines]
    assert {entry["level"] for entry in recorded} == {"INFO", "WARN", "ERROR"}
    for entry in recorded:
        record = a_record(entry["msg"])
        record.levelno = getattr(logging, entry["level"])
        record.levelname = logging.getLevelName(record.levelno)

        ours = json.loads(JsonFormatter().format(record))

        assert list(ours)[:4] == list(entry)[:4]
        assert (ours["level"], ours["msg"]) == (entry["level"], entry["msg"])
        for time in (ours["time"], entry["time"]):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3,9}Z", time)


def test_json_has_the_traceback() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = a_record(exc_info=sys.exc_info())

    assert "ValueError: why" in json.loads(JsonFormatter().format(record))["exception"]


def test_a_closed_stderr_stops_nothing() -> None:
    program = (
        "import os, logging; from pgoutbox import log; log.configure('info', 'text');"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 2);"
        "[logging.info('x' * 9999) for _ in range(99)]; print('went on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.stdout == "went on\n"
