"""The benchmarks run; what they measure is for people to judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.report import Report
from pgoutbox.demo.process import guarded
from tests.support.commands import ROOT, clean_environment


def test_a_small_run_writes_goals_and_figures(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    sizes = ["--scale", "0.0001", "--runs", "1"]
    files = ["--json", str(figures), "--markdown", str(tmp_path / "report.md")]

    done = subprocess.run(
        guarded([sys.executable, "-m", "benchmarks", "drain", *sizes, *files]),
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    report = Report.from_json(json.loads(figures.read_text()))
    assert [row[0] for row in report.goals()] == ["what", "drain, 20 single-row transactions"]
    assert "drain, 20 single-row transactions" in done.stdout
    assert report.to_markdown() == (tmp_path / "report.md").read_text()
