"""Draw docs/_static/dashboard.svg: python -m tools.dashboard_picture

It shows the first panels of the dashboard, where it has them and with its queries, of two minutes
in the life of a relay: load that comes and goes, and NATS down for a while. Needs prometheus.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from benchmarks.plot import Axis, Scale
from pgoutbox.demo.nats_server import NatsServer
from pgoutbox.demo.postgres import PostgresServer
from pgoutbox.demo.process import HOST, free_port
from tests.deploy.prometheus import Prometheus
from tests.support.commands import ROOT, pgoutbox, start_daemon

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "pgoutbox.json"
PICTURE = ROOT / "docs" / "_static" / "dashboard.svg"
SECONDS = 120
OUTAGE = range(50, 70)  # of NATS
ROWS = 30  # of the dashboard's grid; what is below isn't shown
UNIT = (44, 36)  # pixels of a cell of that grid
STYLE = """
svg { font: 12px system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
.page { fill: #f6f8fa } .panel { fill: #ffffff; stroke: #d8dee4 } text { fill: #1f2328 }
.quiet { fill: #59636e } .grid { stroke: #d8dee4 } .number { font-size: 30px; fill: #1a7f37 }
.title { font-weight: 600; letter-spacing: -0.2px } path { fill: none; stroke-width: 2 }
.s0 { stroke: #0b62c4 } .s1 { stroke: #bc4c00 } .f0 { fill: #0b62c4 } .f1 { fill: #bc4c00 }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117 } .panel { fill: #161b22; stroke: #2a313a } text { fill: #e6edf3 }
.quiet { fill: #9198a1 } .grid { stroke: #2a313a } .number { fill: #3fb950 }
.s0 { stroke: #58a6ff } .s1 { stroke: #f0883e } .f0 { fill: #58a6ff } .f1 { fill: #f0883e }
}
"""


class Line(NamedTuple):
    """A series as Prometheus has it: seconds since the beginning, and values."""

    name: str
    points: list[tuple[float, float]]


Recorded = dict[int, list[Line]]  # by the panel's id


def panels() -> list[dict[str, Any]]:
    """Return the panels that are shown."""
    found = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return [panel for panel in found if panel["gridPos"]["y"] < ROWS]


async def record(folder: Path) -> Recorded:
    """Run servers, a relay and writers, and return what Prometheus has seen."""
    with contextlib.ExitStack() as stack:
        postgres = PostgresServer(folder / "postgres").start()
        stack.callback(postgres.kill)
        nats = NatsServer(folder / "nats").start()
        stack.callback(nats.kill)
        owner = await asyncpg.connect(postgres.dsn())
        await owner.execute("create table orders (id serial primary key, total numeric)")
        installed = pgoutbox("install", "--dsn", postgres.dsn(), "--table", "orders")
        installed.check_returncode()
        metrics = f"{HOST}:{free_port()}"
        relay = await start_daemon(
            *("relay", "--dsn", postgres.dsn(), "--nats-url", nats.url, "--name", "shop"),
            *("--metrics-addr", metrics),
        )
        try:
            await relay.line("connected to NATS")
            port = int(metrics.rpartition(":")[2])
            prometheus = stack.enter_context(Prometheus(folder / "prometheus", {"shop": [port]}))
            begin = time.time()
            await _write(owner, nats)
            return {panel["id"]: await _lines(prometheus, panel, begin) for panel in panels()}
        finally:
            await relay.stop()
            await owner.close()


async def _write(owner: asyncpg.Connection, nats: NatsServer) -> None:
    """Write more and less by turns; stop NATS for a while."""
    for second in range(SECONDS):
        if second == OUTAGE.start:
            nats.kill()
        elif second == OUTAGE.stop:
            nats.start()
        begun = time.monotonic()
        for _ in range(int(60 + 40 * math.sin(second / 12))):
            await owner.execute("insert into orders (total) values (12.50)")
        await asyncio.sleep(max(0.0, begun + 1 - time.monotonic()))


async def _lines(prometheus: Prometheus, panel: dict[str, Any], begin: float) -> list[Line]:
    lines = []
    for target in panel.get("targets", []):
        query = target["expr"].replace("$__rate_interval", "10s")
        query = query.replace("$job", ".*").replace("$relay", ".*")
        for series in await prometheus.query_range(query, begin, begin + SECONDS, 1):
            name = target["legendFormat"]
            for label, value in series["metric"].items():
                name = name.replace(f"{{{{{label}}}}}", value)
            values = [(at - begin, float(value)) for at, value in series["values"]]
            lines.append(Line(name, [(at, value) for at, value in values if value == value]))
    return lines


def draw(recorded: Recorded) -> str:
    """Return the picture."""
    width, height = 24 * UNIT[0], ROWS * UNIT[1]
    body = "\n".join(part for panel in panels() for part in _panel(panel, recorded[panel["id"]]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">\n'
        f"<title>The dashboard while NATS is unavailable for {len(OUTAGE)} seconds</title>\n"
        f'<style>{STYLE}</style>\n<rect class="page" width="100%" height="100%"/>\n{body}\n</svg>\n'
    )


def _panel(panel: dict[str, Any], lines: Sequence[Line]) -> Iterator[str]:
    place = panel["gridPos"]
    width, height = place["w"] * UNIT[0] - 8, place["h"] * UNIT[1] - 8
    yield f'<g transform="translate({place["x"] * UNIT[0] + 4} {place["y"] * UNIT[1] + 4})">'
    if panel["type"] == "row":
        yield f'<text class="title" x="6" y="20">{escape(panel["title"])}</text>'
    else:
        yield f'<rect class="panel" width="{width}" height="{height}" rx="4"/>'
        yield f'<text class="title" x="10" y="20">{escape(panel["title"])}</text>'
        shown = _number if panel["type"] == "stat" else _plot
        yield from shown(panel, lines, width, height)
    yield "</g>"


def _number(panel: dict[str, Any], lines: Sequence[Line], width: int, height: int) -> Iterator[str]:
    value = lines[0].points[-1][1] if lines else 0
    unit = " s" if panel["fieldConfig"]["defaults"].get("unit") == "s" else ""
    middle = f'x="{width / 2}" y="{height / 2 + 22}" text-anchor="middle"'
    yield f'<text class="number" {middle}>{value:.3g}{unit}</text>'


def _plot(panel: dict[str, Any], lines: Sequence[Line], width: int, height: int) -> Iterator[str]:
    left, top, bottom = 52, 36, height - 48
    values = [value for line in lines for _, value in line.points]
    ys = Scale(Axis(""), [*values, 1e-3], bottom, top)
    unit = {"s": " s", "cps": "/s"}.get(panel["fieldConfig"]["defaults"].get("unit"), "")
    for value, label in ys.ticks:
        y = f"{ys.at(value):.1f}"
        yield f'<path class="grid" style="stroke-width: 1" d="M{left} {y}H{width - 20}"/>'
        yield f'<text class="quiet" x="{left - 6}" y="{y}" text-anchor="end">{label}{unit}</text>'
    scale = (width - 20 - left) / SECONDS
    for number, line in enumerate(lines):
        path = "".join(
            f"{'L' if is_next else 'M'}{left + at * scale:.1f} {ys.at(value):.1f}"
            for at, value, is_next in _joined(line.points)
        )
        yield f'<path class="s{number % 2}" d="{path}"/>'
        x = left + number * (width - left) / 2
        yield f'<rect class="f{number % 2}" x="{x}" y="{height - 18}" width="14" height="3"/>'
        yield f'<text class="quiet" x="{x + 20}" y="{height - 13}">{escape(line.name)}</text>'
    for second in range(0, SECONDS + 1, 30):
        x = left + second * scale
        place = f'x="{x}" y="{bottom + 18}" text-anchor="middle"'
        yield f'<text class="quiet" {place}>{second} s</text>'


def _joined(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float, bool]]:
    """Yield the points, and whether each is the next of those before: a gap stays one."""
    before = -math.inf
    for at, value in points:
        yield at, value, at - before < 5
        before = at


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)  # PostgreSQL's user enters it
        PICTURE.write_text(draw(asyncio.run(record(Path(name)))), "utf-8")
