"""Log lines on stderr: one a change of state, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from pgoutbox import __version__

# What every record has; the rest of it was given as ``extra``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


_LEVELS = {"WARNING": "WARN"}  # Go's name, and so wal-listener's


def configure(level: str, format: Literal["text", "json"]) -> None:
    """Send all log lines of ``level`` and above to stderr.

    A stderr that nobody reads any more never stops the program.
    """
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """``2026-11-23T05:25:36.518Z INFO message key=value``, always one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        level = _LEVELS.get(record.levelname, record.levelname)
        parts = [_time(record), level, _one_line(record.getMessage())]
        parts += [f"{key}={_value(value)}" for key, value in _fields(record).items()]
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line, as wal-listener's: time, level, msg, version, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        entry: dict[str, object] = {
            "time": _time(record),
            "level": _LEVELS.get(record.levelname, record.levelname),
            "msg": record.getMessage(),
            "version": __version__,
            "logger": record.name,
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        is_utf8 = "utf" in (getattr(sys.stderr, "encoding", None) or "").lower()
        return json.dumps(entry, default=str, ensure_ascii=not is_utf8)


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n") if "\n" in text else text


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    is_plain = bool(text) and text.isprintable() and not any(c in text for c in ' "=')
    return text if is_plain else json.dumps(text, ensure_ascii=False)
