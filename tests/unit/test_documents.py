"""The documents say of the commands what the code does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest

from benchmarks import plots
from pgoutbox.cli import main
from pgoutbox.errors import PgoutboxError
from tests.support.commands import ROOT
from tools import documents

README = documents.README.read_text("utf-8")
STALE = "is stale; bring it up to date with: make docs"


def _section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    assert found, f"the README has no section {title}"
    return found[1]


def _options(*commands: click.Command) -> set[str]:
    return {
        flag
        for command in commands
        for option in command.params
        for flag in (*option.opts, *option.secondary_opts)
    }


def _kinds(kind: type[PgoutboxError] = PgoutboxError) -> Iterator[type[PgoutboxError]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _kinds(subclass)


def _codes(text: str) -> set[int]:
    """Return the exit codes that a list names: numbers at the beginning of a line, or a part."""
    return {
        int(code) for code in re.findall(r"(?:^|[:,]) *(\d+) +(?=[a-zA-Z])", text, re.MULTILINE)
    }


def test_commands_have_the_text_of_the_help() -> None:
    assert documents.COMMANDS.read_text("utf-8") == documents.commands(), (
        f"docs/commands.md {STALE}"
    )


def test_the_table_of_settings_is_that_of_the_code() -> None:
    written = documents.SETTINGS.read_text("utf-8")

    assert documents.with_settings(written) == written, f"docs/settings.md {STALE}"


def test_the_table_of_placeholders_is_that_of_the_code() -> None:
    written = documents.MESSAGES.read_text("utf-8")

    assert documents.with_placeholders(written) == written, f"docs/messages.md {STALE}"


def test_the_table_of_parameters_is_that_of_the_code() -> None:
    written = documents.POSTGRESQL.read_text("utf-8")

    assert documents.with_parameters(written) == written, f"docs/postgresql.md {STALE}"


def test_figures_are_those_of_one_run_of_the_benchmarks() -> None:
    written = documents.PERFORMANCE.read_text("utf-8")

    assert documents.with_figures(written) == written, f"docs/performance.md {STALE}"


@pytest.mark.parametrize("name", ["throughput", "latency", "row-size"])
def test_plots_are_those_of_the_same_run(name: str) -> None:
    chart = plots.charts(documents.figures())[name]

    assert (documents.PLOTS / f"{name}.svg").read_text("utf-8") == chart.to_svg(), (
        f"docs/performance/{name}.svg {STALE}"
    )
    ElementTree.fromstring(chart.to_svg())  # a picture that can be read


def test_readme_lists_every_command() -> None:
    listed = re.findall(r"^\| `pgoutbox (\w+)", _section("Commands"), re.MULTILINE)

    assert sorted(listed) == sorted(main.commands)


@pytest.mark.parametrize("name", main.commands)
def test_flags_in_the_readmes_list_belong_to_their_command(name: str) -> None:
    found = re.search(rf"^\| `pgoutbox {name}.*$", _section("Commands"), re.MULTILINE)

    assert found
    assert set(re.findall(r"--[a-z][a-z-]*", found[0])) <= _options(main.commands[name])


def test_flags_in_the_readme_exist() -> None:
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README)) <= _options(
        main, *main.commands.values()
    ) | {"--help"}


def test_exit_codes_of_readme_help_and_errors_agree() -> None:
    done, needs_attention, interrupted, terminated = 0, 7, 130, 143
    expected = {
        done,
        needs_attention,
        interrupted,
        terminated,
        *(kind.exit_code for kind in _kinds()),
    }
    line = re.search(r"^Exit codes:.*$", _section("Commands"), re.MULTILINE)
    assert line

    assert _codes(line[0]) == expected
    assert _codes(str(main.epilog).partition("Exit codes:")[2]) == expected


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_places_named_in_documents_for_developers_exist(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")

    named = set(
        re.findall(r"`((?:pgoutbox|sql|tests|tools|benchmarks|docs|examples)/[^`<]*)`", text)
    )

    named.discard("sql/migrations/NNNN_words.sql")
    assert len(named) > 5
    assert [place for place in sorted(named) if not (ROOT / place).exists()] == []


@pytest.mark.parametrize("name", ["how-it-is-tested.md", "security.md"])
def test_tests_that_prove_something_exist(name: str) -> None:
    page = (ROOT / "docs" / name).read_text("utf-8")
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))

    named = set(re.findall(r"`(test_\w+)`", page))

    assert len(named) > 30
    assert [test for test in sorted(named) if f"def {test}(" not in tests] == []


PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md"))
    if "node_modules" not in path.parts
)


def _links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield what a page's relative links lead to: a file, and an anchor in it or nothing."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:", link):
            file, _, anchor = link.partition("#")
            yield (page.parent / file).resolve() if file else page, anchor


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page, as GitHub makes them of its headings."""
    text = page.read_text("utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    slugs = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)
    return {*slugs, *re.findall(r'<a id="([^"]+)"', text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = [
        f"{file.name}#{anchor}"
        for file, anchor in _links(page)
        if not file.exists() or (anchor and anchor not in _anchors(file))
    ]

    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, unread = {documents.README}, [documents.README]
    while unread:
        for file, _ in _links(unread.pop()):
            page = file / "README.md" if file.is_dir() else file
            if page in PAGES and page not in reached:
                reached.add(page)
                unread.append(page)

    by_themselves = {ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"}  # where everybody looks
    assert set(PAGES) - reached - by_themselves == set()


def _literals() -> Iterator[str]:
    """Yield each string of the sources, with … for what is put into it."""
    for path in (ROOT / "pgoutbox").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    for path in (ROOT / "sql").rglob("*.sql"):
        yield path.read_text("utf-8").replace("%s", "…")


def test_sentences_of_the_page_on_troubleshooting_are_those_of_the_sources() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    literals = list(_literals())

    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)

    assert len(quoted) > 60
    assert [said for said in quoted if not any(_is_said(said, text) for text in literals)] == []


def _is_said(sentence: str, literal: str) -> bool:
    """Return True if the words of ``sentence``, between its …, stand in ``literal`` in order."""
    words = [re.escape(part.strip()) for part in sentence.split("…") if part.strip(" ;,:")]
    return re.search(".*?".join(words), literal, re.DOTALL) is not None


def _warnings() -> Iterator[str]:
    """Yield the text of each warning and error that the relay logs, but for those in variables."""
    for path in (ROOT / "pgoutbox").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            is_warning = ast.unparse(node.func) in ("log.warning", "log.error", "Outage")
            if is_warning and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def test_the_page_on_troubleshooting_has_every_warning() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    quoted = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    warnings = list(_warnings())

    assert len(warnings) > 15
    assert [text for text in warnings if not any(_is_said(row, text) for row in quoted)] == []


def test_every_page_is_in_the_site() -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    trees = re.findall(r"(?ms)^```\{toctree\}.*?\n\n(.*?)^```", index)

    assert sorted(" ".join(trees).split()) == sorted(pages)


def test_every_alert_has_a_runbook() -> None:
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text("utf-8")
    alerts = re.findall(r"- alert: (\w+)", rules)
    runbooks = (ROOT / "docs" / "runbooks.md").read_text("utf-8")

    assert re.findall(r"(?m)^## (\w+)$", runbooks) == alerts
