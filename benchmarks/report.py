"""Results: one row for each thing measured, for people as a table and for machines as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

LABEL_WIDTH = 38


@dataclass(frozen=True)
class Column:
    """A figure of each run; with ``per``, the ratio of its median to that of another figure."""

    heading: str
    figure: str
    per: str | None = None
    digits: int = 1


@dataclass
class Table:
    """Rows of figures, each measured in several runs."""

    title: str
    columns: Sequence[Column]
    note: str = ""
    rows: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def add(self, label: str, **figures: float) -> None:
        """Add what one run measured."""
        self.rows.setdefault(label, []).append(figures)

    def median(self, label: str, figure: str) -> float:
        """Return the median of all runs."""
        return median(run[figure] for run in self.rows[label])

    def value(self, label: str, column: Column) -> float | None:
        """Return what stands in a cell; None where a ratio would mean nothing."""
        value = self.median(label, column.figure)
        if column.per is None:
            return value
        base = self.median(label, column.per)
        return value / base if base > 0 else None

    def to_text(self) -> str:
        """Return it for people."""
        widths = [max(len(column.heading), 9) for column in self.columns]
        lines = [_line(self.title, (column.heading for column in self.columns), widths)]
        for label in self.rows:
            cells = (_cell(self.value(label, column), column) for column in self.columns)
            lines.append(_line(f"  {label}", cells, widths))
        return "\n".join([*lines, *([f"  {self.note}"] if self.note else [])])

    def to_json(self) -> dict[str, Any]:
        """Return it for machines: every run, the medians, and the ratios between them."""
        return {"title": self.title, "note": self.note, "rows": [*map(self._row, self.rows)]}

    def _row(self, label: str) -> dict[str, Any]:
        runs = self.rows[label]
        return {
            "what": label,
            "medians": {figure: self.median(label, figure) for figure in runs[0]},
            "ratios": {
                f"{column.figure} / {column.per}": self.value(label, column)
                for column in self.columns
                if column.per
            },
            "runs": runs,
        }


def _cell(value: float | None, column: Column) -> str:
    if value is None:
        return "-"
    return f"{value:,.{column.digits}f}" + ("x" if column.per else "")


def _line(label: str, cells: Any, widths: Sequence[int]) -> str:
    aligned = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join([label.ljust(LABEL_WIDTH), *aligned]).rstrip()
