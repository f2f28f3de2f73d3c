"""Which plots there are, and what of a report they show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.plot import Axis, Bound, Chart, Line, Panel
from benchmarks.report import Report, Table


def write(report: Report, folder: Path) -> None:
    """Draw what the report has the figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, chart in charts(report).items():
        (folder / f"{name}.svg").write_text(chart.to_svg(), "utf-8")


def charts(report: Report) -> dict[str, Chart]:
    """Return the charts by the name of their file."""
    growth = report.find("growth", "growth")
    latency = report.find("latency", "latency")
    sizes = report.find("sizes", "writers")
    drain = report.find("drain", "drain")
    return {
        **({"throughput": _throughput(growth, drain)} if growth else {}),
        **({"latency": _latency(latency)} if latency else {}),
        **({"row-size": _row_size(sizes)} if sizes else {}),
    }


def _throughput(growth: Table, drain: Table | None) -> Chart:
    points = [(growth.median(row, "events"), growth.median(row, "rate")) for row in growth.rows]
    return Chart(
        "Throughput against backlog",
        Axis("events in the backlog", is_log=True),
        Axis("events a second"),
        [Panel([Line("pgoutbox relay --drain", points)], list(_drain_bounds(drain)))],
    )


def _drain_bounds(drain: Table | None) -> Iterator[Bound]:
    """Yield the baseline, and what multiples of it are the goal."""
    if drain is None:
        return
    (row,) = drain.rows
    baseline = drain.median(row, "baseline_per_s")
    yield Bound("one await js.publish after another", baseline)
    for goal in drain.goals:
        yield Bound(f"goal: {goal.goal:g} times that", baseline * goal.goal)


def _latency(table: Table) -> Chart:
    names = _percentiles(table)
    return Chart(
        "Latency from COMMIT to a consumer",
        Axis("percentile", names=names),
        Axis("milliseconds (logarithmic)", is_log=True),
        [_latency_panel(table, row, names) for row in table.rows],
        width=900,
    )


def _percentiles(table: Table) -> list[str]:
    """Return what the figures of a row call its percentiles, such as p99."""
    ((first, *_), *_) = table.rows.values()
    return [name for name in first if re.fullmatch(r"p[\d.]+", name)]


def _latency_panel(table: Table, row: str, names: Sequence[str]) -> Panel:
    def line(name: str, prefix: str, colour: int) -> Line:
        values = [table.median(row, f"{prefix}{percentile}") for percentile in names]
        return Line(name, list(enumerate(values)), colour)

    bounds = [
        Bound(f"goal {goal.goal:g}", goal.goal, names.index(goal.figure))
        for goal in table.goals
        if goal.row == row and goal.figure in names
    ]
    ours = line("commit → relay → stream → consumer", "", 0)
    direct = line("core NATS publish by the writer after COMMIT", "direct_", 2)
    return Panel([ours, direct], bounds, row)


def _row_size(table: Table) -> Chart:
    def line(name: str, figure: str, colour: int) -> Line:
        points = [(table.median(row, "size"), table.median(row, figure)) for row in table.rows]
        return Line(name, [(x, max(y, 0.1)) for x, y in points], colour)

    return Chart(
        "What a trigger adds to a single-row transaction",
        Axis("size of the row in bytes", is_log=True),
        Axis("CPU of the backend, µs (logarithmic)", is_log=True),
        [
            Panel(
                [
                    line("pgoutbox", "pgoutbox_over", 0),
                    line("usual outbox trigger", "usual_over", 1),
                ]
            )
        ],
    )
