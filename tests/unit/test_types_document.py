"""The table of types in docs/messages.md holds what the conformance cases have published."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

import pytest

from tests.conformance.cases import Number, load_cases, parse
from tests.conformance.test_recorded import DIFFERENCES, expected_messages
from tools import documents

# Where the case's name isn't that of the type.
CASES = {
    "double precision": ["double"],
    "varchar(n)": ["varchar_n"],
    "char(n)": ["char_n"],
    "enums": ["enum"],
    "bit(n)": ["bit"],
    "arrays": ["int_array", "text_array", "timestamptz_array"],
    "composite types": ["composite", "composite_nested"],
    "ranges": ["int4range", "tstzrange"],
    "multiranges": ["int4multirange"],
    "domains": [
        "domain_int", "domain_bool", "domain_text", "domain_timestamptz", "domain_timestamp",
        "domain_jsonb",
    ],
    "all others": ["tsquery", "line", "regclass", "pg_lsn", "ltree", "isbn", "pgvector"],
}  # fmt: skip
JSON = {"number": Number, "string": str, "boolean": bool, "JSON": object}


class Row(NamedTuple):
    types: list[str]
    json: str
    examples: list[str]


def rows() -> list[Row]:
    text = documents.MESSAGES.read_text("utf-8")
    found = re.search(r"<!-- types: begin -->\n(.*?)<!-- types: end -->", text, re.DOTALL)
    assert found
    cells = [re.split(r" *\| *", line)[1:-1] for line in found[1].splitlines()[2:]]
    return [
        Row(
            re.split(r", | and ", types.replace("`", "")),
            json,
            re.findall(r"`([^`]*)`", examples),
        )
        for types, json, examples, _ in cells
    ]


@cache
def published() -> dict[str, list[Any]]:
    """Return the values of the column v that each case has published, but for null."""
    return {
        case.name: [
            message.payload[side]["v"]
            for message in expected_messages(case, DIFFERENCES["cases"].get(case.name, {}))
            for side in ("data", "dataOld")
            if message.payload[side].get("v") is not None
        ]
        for case in load_cases()
        if case.name.startswith("type_")
    }


def values_of(name: str) -> list[Any]:
    cases = [f"type_{case}" for case in CASES.get(name, [name])]
    assert any(case in published() for case in cases), f"no case is about {name}"
    return [value for case in cases for value in published().get(case, [])]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.types[0])
def test_examples_of_a_type_were_published_by_a_recorded_case(row: Row) -> None:
    found = [value for name in row.types for value in values_of(name)]

    assert row.examples
    for example in row.examples:
        assert parse(f'{{"v":{example}}}')["v"] in found, example


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.types[0])
def test_every_value_of_a_type_is_the_json_that_the_table_says(row: Row) -> None:
    for name in row.types:
        for value in values_of(name):
            is_number = isinstance(value, Number)
            assert isinstance(value, JSON[row.json]), (name, value)
            assert row.json != "string" or not is_number, (name, value)


def test_commit_times_differ_in_width() -> None:
    times = {
        message.payload["commitTime"]
        for case in load_cases()
        for message in case.messages
        if "commitTime" in message.payload
    }

    assert {len(time) for time in times} >= {len("2026-11-23T05:25:36.52076Z"), 27}
    assert "2026-11-23T05:25:36.52076Z" < "2026-11-23T05:25:36Z", "text doesn't sort by time"
