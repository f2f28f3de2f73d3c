"""The dashboard shows every metric; tests/deploy tries its queries on a real Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pgoutbox.monitoring.metrics import METRICS
from tests.support.commands import ROOT
from tools.dashboard_picture import PICTURE, panels

FILE = ROOT / "deploy" / "grafana" / "dashboards" / "pgoutbox.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
PANELS: list[dict[str, Any]] = [p for p in DASHBOARD["panels"] if p["type"] != "row"]
VARIABLES = DASHBOARD["templating"]["list"]


def queries() -> Iterator[tuple[str, str]]:
    """Yield the queries of the panels, each with the panel's title."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_dashboard_has_every_metric_but_counts_of_problems() -> None:
    """problematic_events_total counts what pgoutbox_parked_events shows."""
    text = " ".join(query for _, query in queries())
    shown = {metric.name for metric in METRICS if re.search(rf"\b{metric.name}(_bucket)?\b", text)}

    assert {metric.name for metric in METRICS} - shown == {"problematic_events_total"}


def test_panels_have_a_place_and_words_of_their_own() -> None:
    taken = {
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    }
    size = sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in DASHBOARD["panels"])

    assert len(taken) == size
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["description"].endswith(".") for panel in PANELS)


def test_every_query_asks_the_data_source_that_is_chosen() -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}

    assert all(panel["datasource"] == chosen for panel in PANELS)
    assert all(target["datasource"] == chosen for panel in PANELS for target in panel["targets"])
    assert [variable["name"] for variable in VARIABLES] == ["datasource", "job", "relay"]


def test_picture_has_the_panels_that_the_dashboard_has_now() -> None:
    text = PICTURE.read_text("utf-8")

    for panel in panels():
        assert f">{panel['title']}</text>" in text, "draw it: python -m tools.dashboard_picture"
