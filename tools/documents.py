"""What the documents repeat: docs/commands.md, settings, metrics, alerts, figures, manifests.

The figures are those of one run of the benchmarks, which docs/performance/figures.json has.
``make docs`` writes them; tests/unit/test_documents.py notices when they are stale.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import click
from click.testing import CliRunner

from benchmarks import plots
from benchmarks.report import Report
from pgoutbox.cli import main
from pgoutbox.config import conninfo
from pgoutbox.config import settings as config
from pgoutbox.config.declare import Setting
from pgoutbox.monitoring.metrics import METRICS
from pgoutbox.subjects import PLACEHOLDERS
from tests.support.commands import ROOT

COMMANDS = ROOT / "docs" / "commands.md"
README = ROOT / "README.md"
SETTINGS = ROOT / "docs" / "settings.md"
MESSAGES = ROOT / "docs" / "messages.md"
POSTGRESQL = ROOT / "docs" / "postgresql.md"
MONITORING = ROOT / "docs" / "monitoring.md"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
PERFORMANCE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "performance"
FIGURES = PLOTS / "figures.json"
ALTERNATIVES = PLOTS / "alternatives.json"
CHART = ROOT / "deploy" / "helm" / "pgoutbox"
MANIFESTS = ROOT / "deploy" / "kubernetes" / "pgoutbox.yaml"

# A helm that was built by go takes itself for one of an ancient Kubernetes.
HELM_FLAGS = ("--kube-version", "1.31.0")

_WIDTH = 100  # columns; never those of whoever's terminal this is
_TABLE = r"(?<=<!-- {0}: begin -->\n).*?(?=<!-- {0}: end -->)"


def commands() -> str:
    """Return docs/commands.md as it should be."""
    parts = ["# Commands\n", "What `--help` says; `make docs` writes it here.\n"]
    for name in ("", *_command_names()):
        parts.append(f"## {f'pgoutbox {name}'.strip()}\n\n```\n{_help(name)}```\n")
    return "\n".join(parts)


def with_settings(text: str) -> str:
    """Return docs/settings.md, now ``text``, with the table as it should be."""
    return _with_table(text, "settings", settings())


def with_placeholders(text: str) -> str:
    """Return docs/messages.md, now ``text``, with the table as it should be."""
    return _with_table(text, "placeholders", placeholders())


def with_parameters(text: str) -> str:
    """Return docs/postgresql.md, now ``text``, with the table as it should be."""
    return _with_table(text, "parameters", parameters())


def with_metrics(text: str) -> str:
    """Return docs/monitoring.md, now ``text``, with metrics and alerts as they should be."""
    text = _with_table(text, "alerts", f"```yaml\n{ALERTS.read_text('utf-8')}```\n")
    return _with_table(text, "metrics", metrics())


def figures(path: Path = FIGURES) -> Report:
    """Return what the run measured of which the documents tell."""
    return Report.from_json(json.loads(path.read_text("utf-8")))


def with_figures(text: str) -> str:
    """Return docs/performance.md, now ``text``, with the figures of both runs."""
    report, beside = figures(), figures(ALTERNATIVES)
    text = _with_table(text, "goals", report.goals_to_markdown())
    text = _with_table(text, "alternatives", beside.tables_to_markdown())
    return _with_table(text, "figures", report.tables_to_markdown())


def _with_table(text: str, name: str, table: str) -> str:
    pattern = re.compile(_TABLE.format(name), re.DOTALL)
    changed, count = pattern.subn(lambda _: table, text)
    if count != 1:
        raise ValueError(f"there is not exactly one place for the table of {name}")
    return changed


def settings() -> str:
    """Return the table of all settings; those that only wal-listener's file has come last."""
    ordered = sorted(config.SETTINGS, key=lambda setting: setting.flag is None)
    rows = [
        ["key in the file", "flag", "variable", "default", "meaning"],
        ["---"] * 5,
        *(list(_row(setting)) for setting in ordered),
    ]
    return _table(rows)


def placeholders() -> str:
    """Return the table of placeholders in subjects."""
    rows = [["placeholder", "is"], ["---"] * 2]
    rows += [[f"`{{{each.name}}}`", each.meaning] for each in PLACEHOLDERS.values()]
    return _table(rows)


def parameters() -> str:
    """Return the table of what a connection string may have, neighbours of one fate together."""
    rows = [["parameter", "variable", "fate", "remark"], ["---"] * 4]
    for (fate, remark, variable), group in groupby(
        conninfo.PARAMETERS, lambda one: (one.fate, one.remark, one.variable)
    ):
        of_fate = list(group)
        if fate == "refused" and of_fate[0].same:
            fate = f"refused, but for {_code(of_fate[0].same)}"
        names = _code([one.name for one in of_fate])
        rows.append([names, _code([variable] if variable else []), fate, remark])
    return _table(rows)


def metrics() -> str:
    """Return the table of all metrics but those of the process."""
    rows = [["metric", "type", "labels", "meaning"], ["---"] * 4]
    rows += [
        [_code([metric.name]), metric.kind, _code(metric.labels), f"{metric.help}."]
        for metric in METRICS
    ]
    return _table(rows)


def manifests(helm: str) -> str:
    """Return deploy/kubernetes/pgoutbox.yaml as it should be; ``helm`` is the program's path."""
    values = MANIFESTS.with_name("values.yaml")
    rendered = subprocess.run(
        [helm, "template", "pgoutbox", CHART, *HELM_FLAGS, "--values", values],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = rendered.stdout.splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("# Source: "))
    return f"# deploy/helm/pgoutbox with values.yaml; make docs writes it.\n{text}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def write() -> None:
    """Bring the files up to date."""
    COMMANDS.write_text(commands(), "utf-8")
    SETTINGS.write_text(with_settings(SETTINGS.read_text("utf-8")), "utf-8")
    MESSAGES.write_text(with_placeholders(MESSAGES.read_text("utf-8")), "utf-8")
    POSTGRESQL.write_text(with_parameters(POSTGRESQL.read_text("utf-8")), "utf-8")
    MONITORING.write_text(with_metrics(MONITORING.read_text("utf-8")), "utf-8")
    PERFORMANCE.write_text(with_figures(PERFORMANCE.read_text("utf-8")), "utf-8")
    plots.write(figures(), PLOTS)
    if helm := program("helm"):
        MANIFESTS.write_text(manifests(helm), "utf-8")
    else:
        print(f"{MANIFESTS.relative_to(ROOT)} stays as it is: helm isn't installed")


def program(name: str) -> str | None:
    """Return the path of a program in the virtual environment, or of the system's."""
    folders = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return shutil.which(name, path=folders)


def _command_names() -> Iterator[str]:
    for name, command in main.commands.items():
        yield name
        if isinstance(command, click.Group):
            yield from (f"{name} {step}" for step in command.commands)


def _help(name: str) -> str:
    arguments = [*name.split(), "--help"]
    printed = CliRunner().invoke(main, arguments, prog_name="pgoutbox", terminal_width=_WIDTH)
    return "".join(f"{line.rstrip()}\n" for line in printed.stdout.splitlines())


def _row(setting: Setting) -> Iterator[str]:
    yield _code(setting.keys)
    yield _code([setting.flag] if setting.flag else [])
    yield _code(setting.all_variables)
    yield _code([setting.shown_default] if setting.shown_default else [])
    yield setting.meaning.replace("|", "\\|")


def _code(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    write()
