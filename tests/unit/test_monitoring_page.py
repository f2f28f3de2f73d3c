"""docs/monitoring.md names what there is."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from pgoutbox.monitoring.metrics import METRICS
from pgoutbox.monitoring.monitor import STUCK_AFTER, Monitor
from pgoutbox.monitoring.web import probes
from tests.support.commands import ROOT
from tools import documents

PAGE = documents.MONITORING.read_text("utf-8")
PROBES, ALERTS = (
    yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.M)
)
RULES = ALERTS["groups"][0]["rules"]
SOURCES = "".join(path.read_text("utf-8") for path in sorted((ROOT / "pgoutbox").rglob("*.py")))

NAMES = {metric.name for metric in METRICS}
ANY_NAME = re.compile(r"\b(?:pgoutbox_[a-z_]+|[a-z_]+_events_total)\b")


def test_metrics_and_alerts_are_those_of_the_code() -> None:
    assert documents.with_metrics(PAGE) == PAGE, "is stale; bring it up to date with: make docs"


def test_metrics_named_in_the_text_exist() -> None:
    assert set(ANY_NAME.findall(PAGE)) <= NAMES


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert_is_about_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    used = set(ANY_NAME.findall(rule["expr"]))
    labels = {label for metric in METRICS if metric.name in used for label in metric.labels}

    assert used
    assert used <= NAMES
    for grouping in re.findall(r"by \((.*?)\)", rule["expr"]):
        assert set(grouping.split(", ")) <= labels | {"namespace", "job"}
    assert rule["annotations"].keys() == {"summary", "description"}
    assert set(ANY_NAME.findall(rule["annotations"]["description"])) <= NAMES


def test_page_says_what_to_do_about_each_alert() -> None:
    rows = re.findall(r"^\| `(Pgoutbox\w+)` \| \S", PAGE, re.MULTILINE)

    assert rows == [rule["alert"] for rule in RULES]


def test_probes_ask_on_paths_that_are_answered() -> None:
    asked = {
        probe["httpGet"]["path"]: probe["httpGet"]["port"]
        for name, probe in PROBES.items()
        if name.endswith("Probe")
    }

    assert asked.keys() == probes(Monitor()).keys()
    assert set(asked.values()) <= {port["name"] for port in PROBES["ports"]}
    assert f"{STUCK_AFTER / 60:.0f} minutes".replace("5", "five") in PAGE


def test_log_lines_are_in_the_code() -> None:
    lines = re.findall(r"^\| (?:INFO|WARN|ERROR) \| `([^`]+)` ", PAGE, re.MULTILINE)

    assert len(lines) > 5
    for line in lines:
        assert line in SOURCES, line
