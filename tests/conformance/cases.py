"""The recorded cases, and the rule by which a message equals a recorded one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "cases"
ALL_ACTIONS = ["insert", "update", "delete", "truncate"]
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
COMMIT_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,5}[1-9])?Z")


class Number(str):
    """A JSON number as it is written: 1.10 is not 1.1, and neither is a string."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and str(self) == str(other)

    __hash__ = str.__hash__

    def __repr__(self) -> str:
        return f"Number({self!s})"


class Message(NamedTuple):
    subject: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One recorded case."""

    name: str
    filter: dict[str, list[str]]  # table name → actions
    setup: list[str]
    steps: list[dict[str, Any]]
    messages: list[Message]
    volatile: frozenset[str]
    failing_steps: dict[int, str]  # index → SQLSTATE
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    streams: list[dict[str, Any]] = field(default_factory=list)  # made beforehand
    server_sql: list[str] = field(default_factory=list)
    encoding: str | None = None
    is_incomplete: bool = False


def parse(payload: str | bytes) -> dict[str, Any]:
    """Parse a payload; numbers keep their text, and no key may come twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), f"a key comes twice: {[key for key, _ in pairs]}"
        return dict(pairs)

    parsed: dict[str, Any] = json.loads(
        payload,
        parse_int=Number,
        parse_float=Number,
        parse_constant=Number,
        object_pairs_hook=unique,
    )
    return parsed


def load_cases() -> Iterator[Case]:
    """Read every case of the folder."""
    for path in sorted(FOLDER.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
            recorded = json.loads(line)
            config = recorded.get("config", {})
            tables = config.get(
                "__filter_tables__", dict.fromkeys(recorded["filter_tables"], ALL_ACTIONS)
            )
            yield Case(
                name=recorded["case"],
                filter={
                    table: actions.split(",") if isinstance(actions, str) else actions
                    for table, actions in tables.items()
                },
                setup=recorded.get("setup_sql", []),
                steps=recorded["sql"],
                messages=[
                    Message(message["subject"], parse(message["payload"]))
                    for message in recorded["messages"]
                ],
                volatile=frozenset(recorded.get("volatile", [])),
                failing_steps={
                    error["step"]: error["sqlstate"] for error in recorded.get("sql_errors", [])
                },
                config=config,
                environment=recorded.get("env", {}),
                streams=recorded.get("streams", []),
                server_sql=recorded.get("server_sql", []),
                encoding=recorded.get("db_encoding"),
                is_incomplete=recorded.get("incomplete", False),
            )


def flatten(message: Message) -> dict[str, Any]:
    """Return a message as path → value; `id` and `commitTime` have rules of their own."""
    flat: dict[str, Any] = {"subject": message.subject}
    for key, value in message.payload.items():
        if key in ("data", "dataOld"):
            flat[key] = set(value)
            flat.update({f"{key}.{column}": item for column, item in value.items()})
        elif key not in ("id", "commitTime"):
            flat[key] = value
    return flat


def deviations(
    expected: list[Message], actual: list[Message], volatile: frozenset[str] = frozenset()
) -> dict[str, tuple[Any, Any]]:
    """Return `message:path` → (expected, actual) for whatever is not the same."""
    found: dict[str, tuple[Any, Any]] = {}
    if len(expected) != len(actual):
        found["count"] = (len(expected), len(actual))
    for number, (wanted, got) in enumerate(zip(expected, actual, strict=False)):
        one, other = flatten(wanted), flatten(got)
        for path in one.keys() | other.keys():
            if one.get(path) != other.get(path) and f"{number}:{path}" not in volatile:
                found[f"{number}:{path}"] = (one.get(path), other.get(path))
    return found


def assert_envelopes(recorded: list[Message], actual: list[Message]) -> None:
    """Check keys, ids and commit times; times repeat where the recorded ones do."""
    for message in actual:
        assert list(message.payload) == [
            "id", "schema", "table", "action", "data", "dataOld", "commitTime",
        ]  # fmt: skip
        assert UUID.fullmatch(message.payload["id"])
        assert COMMIT_TIME.fullmatch(message.payload["commitTime"])
    assert len({message.payload["id"] for message in actual}) == len(actual)
    times = [message.payload["commitTime"] for message in actual]
    assert times == sorted(times, key=lambda time: time.rstrip("Z"))
    if len(recorded) == len(actual):
        assert transactions(recorded) == transactions(actual)


def transactions(messages: list[Message]) -> list[int]:
    """Return for each message the number of its transaction, told by the commit times."""
    times = [message.payload["commitTime"] for message in messages]
    return [times.index(time) for time in times]
