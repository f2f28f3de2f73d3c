"""Results: rows of figures and the goals they are to reach; as text, as Markdown, as JSON."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

GOALS_HEAD = (
    "what",
    "baseline",
    "measured",
    "ratio",
    "goal",
    "beyond",
    "reached",
    "CPU µs an event",
)
CPU = ("relay_us", "postgres_us", "nats_us")  # what a row calls the CPU time of each process

Cells = Sequence[str]


@dataclass(frozen=True)
class Column:
    """A figure of each run; with ``per``, the ratio of its median to that of another figure."""

    heading: str
    figure: str
    per: str | None = None
    digits: int = 1


@dataclass(frozen=True)
class Goal:
    """What a row is to reach: a figure, or with ``per`` its ratio to another one.

    At least ``goal``, or at most where ``at_most``; ``beyond`` is more than is asked for.
    ``beside`` is a baseline that is shown, and not what the goal is about.
    """

    what: str
    row: str
    figure: str
    goal: float
    beyond: float | None = None
    per: str | None = None
    beside: str | None = None
    at_most: bool = False
    unit: str = ""
    digits: int = 1
    has_cpu: bool = True  # that the row's CPU time belongs to it

    def reached(self, value: float) -> str:
        """Return in a word whether ``value`` is good enough."""
        if self.beyond is not None and self._is_met(value, self.beyond):
            return "beyond"
        return "yes" if self._is_met(value, self.goal) else "no"

    def limit(self, bound: float | None) -> str:
        """Return how one writes a bound: ``≥ 12x``."""
        if bound is None:
            return ""
        unit = "x" if self.per else self.unit
        return f"{'≤' if self.at_most else '≥'} {bound:,g}{unit}"

    def _is_met(self, value: float, bound: float) -> bool:
        return value <= bound if self.at_most else value >= bound


@dataclass
class Table:
    """Rows of figures, each measured in several runs."""

    title: str
    columns: Sequence[Column]
    note: str = ""
    rows: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)

    def add(self, label: str, **figures: float) -> None:
        """Add what one run measured."""
        self.rows.setdefault(label, []).append(figures)

    def median(self, label: str, figure: str) -> float:
        """Return the median of all runs."""
        return median(run[figure] for run in self.rows[label])

    def value(self, label: str, figure: str, per: str | None = None) -> float | None:
        """Return a median or a ratio of two; None where a ratio would mean nothing."""
        value = self.median(label, figure)
        if per is None:
            return value
        base = self.median(label, per)
        return value / base if base > 0 else None

    def cells(self) -> Iterator[Cells]:
        """Yield the heading and then each row."""
        yield [self.title, *(column.heading for column in self.columns)]
        for label in self.rows:
            values = (self.value(label, c.figure, c.per) for c in self.columns)
            yield [
                label,
                *(
                    _cell(value, column.digits, "x" if column.per else "")
                    for value, column in zip(values, self.columns, strict=True)
                ),
            ]

    def goal_cells(self) -> Iterator[Cells]:
        """Yield a row of the table of goals for each of its goals."""
        for goal in self.goals:
            value = self.value(goal.row, goal.figure, goal.per)
            per = goal.per or goal.beside
            yield [
                goal.what,
                _cell(self.median(goal.row, per), goal.digits, goal.unit) if per else "",
                _cell(self.median(goal.row, goal.figure), goal.digits, goal.unit),
                _cell(self.value(goal.row, goal.figure, per), 2, "x") if per else "",
                goal.limit(goal.goal),
                goal.limit(goal.beyond),
                "-" if value is None else goal.reached(value),
                self._cpu(goal.row) if goal.has_cpu else "",
            ]

    def _cpu(self, label: str) -> str:
        if not set(CPU) <= set(self.rows[label][0]):
            return ""
        return " + ".join(f"{self.median(label, figure):.0f}" for figure in CPU)

    def to_text(self) -> str:
        """Return it for people."""
        note = textwrap.wrap(self.note, 100, initial_indent="  ", subsequent_indent="  ")
        return "\n".join([text_table(list(self.cells())), *note])

    def to_markdown(self) -> str:
        """Return it for a document."""
        note = f"\n*{self.note}*\n" if self.note else ""
        return f"{markdown_table(list(self.cells()))}{note}"

    def to_json(self) -> dict[str, Any]:
        """Return it for machines: every run, beside the medians."""
        medians = {
            label: {figure: self.median(label, figure) for figure in runs[0]}
            for label, runs in self.rows.items()
        }
        return {**dataclasses.asdict(self), "medians": medians}

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_json` wrote."""
        return cls(
            title=written["title"],
            columns=[Column(**column) for column in written["columns"]],
            note=written["note"],
            rows=written["rows"],
            goals=[Goal(**goal) for goal in written["goals"]],
        )


@dataclass
class Report:
    """All that one run of the benchmarks measured, and on what."""

    setting: Mapping[str, Any]
    tables: dict[str, list[Table]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # that each benchmark took

    def headline(self) -> str:
        """Return the versions, the machine, and how much was measured."""
        names = ", ".join(f"{name} {version}" for name, version in self.setting["versions"].items())
        return (
            f"{names}\n{self.setting['system']}, {self.setting['cores']} cores,"
            f" load {self.setting['load']} before; runs: {self.setting['runs']},"
            f" medians, side by side; scale {self.setting['scale']:g}"
        )

    def goals(self) -> list[Cells]:
        """Return the table of goals, its heading first."""
        cells = [row for table in self.all_tables() for row in table.goal_cells()]
        failed = [[name, *[""] * 5, "failed", ""] for name in self.failures]
        return [GOALS_HEAD, *cells, *failed]

    def all_tables(self) -> list[Table]:
        """Return the tables in the order in which they were measured."""
        return [table for tables in self.tables.values() for table in tables]

    def find(self, name: str, title: str) -> Table | None:
        """Return a benchmark's table whose title begins so, if it was measured."""
        return next((t for t in self.tables.get(name, ()) if t.title.startswith(title)), None)

    def to_markdown(self) -> str:
        """Return all of it for a document."""
        return f"{self.goals_to_markdown()}\n{self.tables_to_markdown()}"

    def goals_to_markdown(self) -> str:
        """Return what was measured on what, and the table of goals."""
        versions, machine = self.headline().split("\n")
        return f"{versions}.\n{machine}.\n\n{markdown_table(self.goals())}"

    def tables_to_markdown(self) -> str:
        """Return the tables with all figures."""
        return "\n".join(table.to_markdown() for table in self.all_tables())

    def to_json(self) -> dict[str, Any]:
        """Return all of it for machines."""
        tables = {name: [t.to_json() for t in tables] for name, tables in self.tables.items()}
        return {
            "setting": self.setting,
            "seconds": self.seconds,
            "tables": tables,
            "failures": self.failures,
        }

    def write(self, path: Path) -> None:
        """Write all of it into a file, as JSON."""
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_json` wrote."""
        tables = {
            name: [Table.from_json(table) for table in tables]
            for name, tables in written["tables"].items()
        }
        return cls(written["setting"], tables, written["failures"], written["seconds"])


def text_table(cells: Sequence[Cells]) -> str:
    """Return rows with their columns aligned, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    heading, *rows = cells
    lines = [heading, *([f"  {row[0]}", *row[1:]] for row in rows)]
    return "\n".join(_line(line, [widths[0] + 2, *widths[1:]]) for line in lines)


def markdown_table(cells: Sequence[Cells]) -> str:
    """Return rows as a table of Markdown, numbers to the right."""
    heading, *rows = cells
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: float | None, digits: int, unit: str) -> str:
    return "-" if value is None else f"{value:,.{digits}f}{unit}"


def _line(cells: Cells, widths: Sequence[int]) -> str:
    aligned = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "  ".join([cells[0].ljust(widths[0]), *aligned]).rstrip()
