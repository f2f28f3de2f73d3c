"""The alerts fire when they should, and not otherwise: alerts.test.yaml says when."""

from __future__ import annotations

from tests.deploy.tools import run
from tests.support.commands import ROOT


def test_alerts_fire_as_their_tests_say() -> None:
    run("promtool", "test", "rules", "alerts.test.yaml", cwd=ROOT / "deploy" / "prometheus")


def test_configuration_is_one_that_prometheus_takes() -> None:
    run("promtool", "check", "config", ROOT / "deploy" / "prometheus" / "prometheus.yml")
