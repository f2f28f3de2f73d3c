"""A release takes its notes from the changelog, or doesn't happen."""

from __future__ import annotations

import pytest

from tools.release_notes import notes

CHANGELOG = """# Changelog

## Unreleased

- Not yet.

## 0.2.0 - 2026-02-01

### Added

- Two.

## 0.1.0 - 2026-01-01

- One.
"""


@pytest.mark.parametrize(
    ("version", "text"), [("0.2.0", "### Added\n\n- Two.\n"), ("0.1.0", "- One.\n")]
)
def test_notes_are_the_versions_section(version: str, text: str) -> None:
    assert notes(f"v{version}", version, CHANGELOG) == text


def test_another_versions_tag_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the tag is v0\.2\.0, and .* says 0\.1\.0"):
        notes("v0.2.0", "0.1.0", CHANGELOG)


@pytest.mark.parametrize("changelog", [CHANGELOG, "## 0.3.0 - unreleased\n\n- Three.\n"])
def test_version_without_a_dated_section_is_refused(changelog: str) -> None:
    with pytest.raises(ValueError, match=r"no section '## 0\.3\.0 - YYYY-MM-DD'"):
        notes("v0.3.0", "0.3.0", changelog)
