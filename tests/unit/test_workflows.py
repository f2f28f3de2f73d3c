"""What the workflows and hooks call exists; GitHub alone can run them."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import ROOT

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yaml"))
WORKFLOWS: dict[str, dict[str, Any]] = {
    file.name: yaml.safe_load(file.read_text()) for file in FILES
}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]


def _jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, workflow in WORKFLOWS.items():
        for job, content in workflow["jobs"].items():
            yield f"{name}: {job}", content


def _steps() -> Iterator[dict[str, Any]]:
    for _, job in _jobs():
        yield from job.get("steps", [])


def _lines(step: dict[str, Any]) -> list[str]:
    script = re.sub(r"\$\{\{.*?\}\}", "…", step.get("run", ""))
    return script.replace("\\\n", " ").splitlines()


def _commands() -> list[str]:
    """Return each line that a workflow or a hook runs."""
    steps = [line for step in _steps() for line in _lines(step)]
    return [*steps, *(hook["entry"] for hook in HOOKS)]


def test_commands_call_what_there_is() -> None:
    called = set()
    for command in _commands():
        words = shlex.split(command)
        if words[0] == "make":
            called |= {word for word in words[1:] if "=" not in word}
        if "-m" in words:
            module = words[words.index("-m") + 1]
            assert importlib.util.find_spec(module), command

    assert called <= TARGETS
    assert {"check", "test-all", "test-wheel", "dist", "docs"} <= called


def test_hooks_run_what_make_check_runs() -> None:
    recipe = re.search(r"^check: (\w+) ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe

    assert [hook["entry"] for hook in HOOKS] == [f"make {recipe[1]}", "make check"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_actions_are_pinned_by_hash_and_tell_their_version(file: Path) -> None:
    for used in re.findall(r"uses: (.+)", file.read_text()):
        if used.startswith("./"):
            assert (ROOT / used).is_file(), used
        else:
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used


def test_an_action_has_one_version() -> None:
    used = {step["uses"] for step in _steps() if "uses" in step}

    assert len(used) == len({name.partition("@")[0] for name in used})


def test_jobs_may_write_only_what_they_publish() -> None:
    assert all(
        workflow["permissions"] in ({}, {"contents": "read"}) for workflow in WORKFLOWS.values()
    )
    writers = {
        name: {scope for scope, right in job.get("permissions", {}).items() if right == "write"}
        for name, job in _jobs()
    }

    assert {name: scopes for name, scopes in writers.items() if scopes} == {
        "release.yaml: pypi": {"attestations", "id-token"},
        "release.yaml: image": {"attestations", "id-token", "packages"},
        "release.yaml: github": {"contents"},
    }


def test_artifacts_that_are_fetched_are_made() -> None:
    def names(action: str) -> set[str]:
        steps = [step["with"] for step in _steps() if f"/{action}@" in step.get("uses", "")]
        patterns = ",".join(step.get("name") or step["pattern"].strip("{}") for step in steps)
        return set(patterns.split(","))

    assert names("download-artifact") <= names("upload-artifact")


def test_matrix_has_every_version_that_is_supported() -> None:
    matrix = WORKFLOWS["ci.yaml"]["jobs"]["test"]["strategy"]["matrix"]["include"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pythons = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    postgres = re.search(r"^POSTGRES := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert postgres

    assert {row["python"] for row in matrix} == set(pythons)
    assert {str(row["postgres"]) for row in matrix} == set(postgres[1].split())
    assert set(WORKFLOWS["ci.yaml"]["jobs"]["wheel"]["strategy"]["matrix"]["python"]) == set(
        pythons
    )


def test_renovate_finds_what_is_pinned() -> None:
    configuration = json.loads((ROOT / "renovate.json").read_text())
    patterns = configuration["pip-compile"]["managerFilePatterns"]

    for file in (ROOT / "requirements").glob("*.txt"):
        name = str(file.relative_to(ROOT))
        assert any(re.search(pattern.strip("/"), name) for pattern in patterns)
        assert file.read_text().splitlines()[1].startswith("#    uv pip compile --universal"), name
