"""A goal is reached by the medians of all runs, and a report survives being written down."""

from __future__ import annotations

import json

import pytest

from benchmarks.report import Column, Goal, Report, Table

SETTING = {"versions": {"x": "1"}, "system": "s", "cores": 2, "load": 0, "scale": 1, "runs": 3}


def _table(goal: Goal) -> Table:
    table = Table("speed", [Column("us/s", "us", digits=0)], goals=[goal])
    for us in (90, 110, 500):
        table.add("row", us=us, them=10)
    return table


@pytest.mark.parametrize(
    ("goal", "reached"),
    [
        (Goal("at least", "row", "us", 12, per="them"), "no"),
        (Goal("at least", "row", "us", 11, per="them"), "yes"),
        (Goal("at least", "row", "us", 5, 11, per="them"), "beyond"),
        (Goal("at most", "row", "us", 100, at_most=True), "no"),
        (Goal("at most", "row", "us", 110, 50, at_most=True), "yes"),
    ],
)
def test_a_goal_is_judged_by_medians(goal: Goal, reached: str) -> None:
    (cells,) = _table(goal).goal_cells()

    assert cells[6] == reached


def test_a_report_that_was_written_down_says_the_same() -> None:
    table = _table(Goal("fast", "row", "us", 12, 20, per="them", unit="/s", digits=0))
    report = Report(SETTING, {"speed": [table]}, {"other": "it broke"}, {"speed": 1.5})

    read = Report.from_json(json.loads(json.dumps(report.to_json())))

    assert read == report
    assert "| fast | 10/s | 110/s | 11.00x | ≥ 12x | ≥ 20x | no |  |" in read.to_markdown()
    assert "| other |" in read.to_markdown()
