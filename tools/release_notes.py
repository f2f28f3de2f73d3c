"""Print a version's section of the changelog: python -m tools.release_notes v0.1.0

Fails unless the tag names the version of this tree, and the section has its date.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def notes(tag: str, version: str, changelog: str) -> str:
    """Return the text below ``## 0.1.0 - 2026-01-31``.

    Raises:
        ValueError: the tag is another version's, or there is no such section.

    """
    if tag != f"v{version}":
        raise ValueError(f"the tag is {tag}, and pgoutbox/__init__.py says {version}")
    heading = rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)"
    section = re.search(heading, changelog, re.DOTALL | re.MULTILINE)
    if section is None:
        raise ValueError(f"CHANGELOG.md has no section '## {version} - YYYY-MM-DD'")
    return section[1].strip() + "\n"


def main() -> int:
    """Print the notes; return 1 with a sentence where there are none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tag")
    tag = parser.parse_args().tag
    source = (ROOT / "pgoutbox" / "__init__.py").read_text()
    version = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)[0]
    try:
        sys.stdout.write(notes(tag, version, (ROOT / "CHANGELOG.md").read_text()))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
