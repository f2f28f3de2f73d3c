"""Counts the cases at the end of a run."""

from __future__ import annotations

from collections import Counter
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many cases gave what was recorded, and how many differ as documented."""
    counts: Counter[str] = Counter()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            if "::test_case_gives_what_was_recorded[" in report.nodeid:
                kind = dict(report.user_properties).get("conformance", "")
                counts[
                    kind if outcome == "passed" else "failed" if outcome != "skipped" else outcome
                ] += 1
    if counts:
        skipped = f", {counts['skipped']} not on this server" if counts["skipped"] else ""
        terminalreporter.write_line(
            f"conformance: {counts.total()} cases: {counts['as recorded']} as recorded,"
            f" {counts['different']} deliberately different, {counts['failed']} failed{skipped}"
        )
