"""Charts as SVG: lines over one or several panels with common axes, for light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

PANEL_HEIGHT = 260
LEFT, RIGHT, TOP, BOTTOM, BETWEEN = 68, 24, 84, 56, 22

# Ours, and up to two others; told apart by the shape of their points, too.
_SHAPES = ("circle", "square", "diamond")

_STYLE = """
svg { font: 13px system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
.page { fill: #ffffff } .text { fill: #1f2328 } .quiet { fill: #59636e }
.grid { stroke: #d8dee4 } .axis { stroke: #8c959f } .bound { stroke: #59636e }
.f0 { fill: #0b62c4 } .s0 { stroke: #0b62c4 } .f1 { fill: #bc4c00 } .s1 { stroke: #bc4c00 }
.f2 { fill: #6e7781 } .s2 { stroke: #6e7781 }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117 } .text { fill: #e6edf3 } .quiet { fill: #9198a1 }
.grid { stroke: #2a313a } .axis { stroke: #656c76 } .bound { stroke: #9198a1 }
.f0 { fill: #58a6ff } .s0 { stroke: #58a6ff } .f1 { fill: #f0883e } .s1 { stroke: #f0883e }
.f2 { fill: #8b949e } .s2 { stroke: #8b949e }
}
"""


@dataclass(frozen=True)
class Axis:
    """What an axis shows, with its unit; ``names`` are what stands at 0, 1, 2 and so on."""

    label: str
    is_log: bool = False
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Line:
    """Points of one thing that was measured."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0


@dataclass(frozen=True)
class Bound:
    """A value to compare with: all the way across, or at one place of the x axis only."""

    name: str
    y: float
    x: float | None = None


@dataclass(frozen=True)
class Panel:
    """One of the charts that stand side by side."""

    lines: Sequence[Line]
    bounds: Sequence[Bound] = ()
    title: str = ""


@dataclass(frozen=True)
class Chart:
    """Panels with common axes, under one title."""

    title: str
    x: Axis
    y: Axis
    panels: Sequence[Panel]
    width: int = 760

    def to_svg(self) -> str:
        """Return it as a picture that needs nothing but fonts."""
        height = TOP + PANEL_HEIGHT + BOTTOM
        body = "\n".join([*_head(self), *self._panels(), *self._axis_labels(height)])
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {height}"'
            f' width="{self.width}" height="{height}" role="img">\n'
            f"<title>{escape(self.title)}</title>\n<style>{_STYLE}</style>\n"
            f'<rect class="page" width="100%" height="100%"/>\n{body}\n</svg>\n'
        )

    def _panels(self) -> Iterator[str]:
        count = len(self.panels)
        width = (self.width - LEFT - RIGHT - BETWEEN * (count - 1)) / count
        points = [p for panel in self.panels for line in panel.lines for p in line.points]
        bounds = [bound.y for panel in self.panels for bound in panel.bounds]
        xs = Scale(self.x, [x for x, _ in points], 0, width, margin=18)
        ys = Scale(self.y, [*(y for _, y in points), *bounds], PANEL_HEIGHT, 0)
        for index, panel in enumerate(self.panels):
            left = LEFT + index * (width + BETWEEN)
            yield f'<g transform="translate({left:.1f} {TOP})">'
            yield from _grid(xs, ys, width, has_labels=index == 0)
            yield from _inside(panel, xs, ys, width)
            yield "</g>"

    def _axis_labels(self, height: int) -> Iterator[str]:
        middle = LEFT + (self.width - LEFT - RIGHT) / 2
        yield _text(middle, height - 12, self.x.label, "text", anchor="middle")
        turned = f' transform="rotate(-90 18 {TOP + PANEL_HEIGHT / 2})"'
        yield _text(18, TOP + PANEL_HEIGHT / 2, self.y.label, "text", anchor="middle", more=turned)


class Scale:
    """Where a value stands between two ends of an axis, in pixels."""

    def __init__(
        self, axis: Axis, values: Sequence[float], start: float, end: float, margin: float = 0
    ) -> None:
        self._axis = axis
        self._start = start + math.copysign(margin, end - start)
        self._end = end - math.copysign(margin, end - start)
        if axis.names:
            self.ticks = [(float(n), name) for n, name in enumerate(axis.names)]
        else:
            ticks = _log_ticks(values) if axis.is_log else _linear_ticks(values)
            self.ticks = [(tick, _number(tick)) for tick in ticks]
        known = [tick for tick, _ in self.ticks]
        self._low, self._high = self._measure(min(known)), self._measure(max(known))

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        share = (self._measure(value) - self._low) / (self._high - self._low or 1)
        return self._start + share * (self._end - self._start)

    def _measure(self, value: float) -> float:
        return math.log10(value) if self._axis.is_log else value


def _linear_ticks(values: Sequence[float]) -> list[float]:
    """Return round numbers from 0 to above the highest value."""
    rough = max(values) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [step * n for n in range(math.ceil(max(values) / step - 1e-9) + 1)]


def _log_ticks(values: Sequence[float]) -> list[float]:
    """Return round numbers around the values: powers of ten, and what is between if few."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    factors = (1,) if high - low > 3 else (1, 2, 5)
    ticks = [10.0**power * factor for power in range(low, high + 1) for factor in factors]
    least = max((t for t in ticks if t <= min(values) * 1.001), default=ticks[0])
    most = min((t for t in ticks if t >= max(values) * 0.999), default=ticks[-1])
    return [tick for tick in ticks if least <= tick <= most]


def _head(chart: Chart) -> Iterator[str]:
    """Yield the title, and what the lines are."""
    yield _text(LEFT, 26, chart.title, "text", more=' font-size="16" font-weight="600"')
    x = float(LEFT)
    for line in {line.name: line for panel in chart.panels for line in panel.lines}.values():
        yield (
            f'<path class="s{line.colour}" d="M{x} 46h22" stroke-width="2"/>'
            f"{_point(x + 11, 46, line.colour)}"
        )
        yield _text(x + 29, 50, line.name, "text")
        x += 29 + 7.2 * len(line.name) + 26


def _grid(xs: Scale, ys: Scale, width: float, *, has_labels: bool) -> Iterator[str]:
    for value, name in ys.ticks:
        y = ys.at(value)
        yield f'<path class="grid" d="M0 {y:.1f}H{width:.1f}"/>'
        if has_labels:
            yield _text(-8, y + 4, name, "quiet", anchor="end")
    for value, name in xs.ticks:
        yield _text(xs.at(value), PANEL_HEIGHT + 20, name, "quiet", anchor="middle")
    yield f'<path class="axis" d="M0 {PANEL_HEIGHT}H{width:.1f}"/>'


def _inside(panel: Panel, xs: Scale, ys: Scale, width: float) -> Iterator[str]:
    yield _text(width / 2, -10, panel.title, "text", anchor="middle", more=' font-weight="600"')
    for bound in panel.bounds:
        yield from _bound(bound, xs, ys, width)
    for line in reversed(panel.lines):
        places = [(xs.at(x), ys.at(y)) for x, y in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        yield f'<path class="s{line.colour}" d="M{path}" fill="none" stroke-width="2"/>'
        for (x, y), (_, value) in zip(places, line.points, strict=True):
            title = f"{line.name}: {value:,.4g}"
            yield f"<g><title>{escape(title)}</title>{_point(x, y, line.colour)}</g>"


def _bound(bound: Bound, xs: Scale, ys: Scale, width: float) -> Iterator[str]:
    y = ys.at(bound.y)
    left, right = (0.0, width) if bound.x is None else (xs.at(bound.x) - 22, xs.at(bound.x) + 22)
    yield (
        f'<path class="bound" d="M{left:.1f} {y:.1f}H{right:.1f}" stroke-width="1.5"'
        ' stroke-dasharray="5 4"/>'
    )
    if bound.x is None:
        yield _text(right - 4, y - 6, bound.name, "quiet", anchor="end")
    else:
        yield _text((left + right) / 2, y - 5, bound.name, "quiet", anchor="middle", size=11)


def _point(x: float, y: float, colour: int) -> str:
    shape = _SHAPES[colour % len(_SHAPES)]
    if shape == "circle":
        return f'<circle class="f{colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if shape == "diamond" else ""
    return (
        f'<rect class="f{colour}" x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"{turn}/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    colour: str,
    *,
    anchor: str = "start",
    size: int = 0,
    more: str = "",
) -> str:
    if not text:
        return ""
    size_of_it = f' font-size="{size}"' if size else ""
    return (
        f'<text class="{colour}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{size_of_it}{more}>'
        f"{escape(text)}</text>"
    )


def _number(value: float) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:g} M"
    return f"{value / 1_000:g} k" if value >= 1_000 else f"{value:g}"
