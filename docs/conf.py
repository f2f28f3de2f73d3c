"""How Sphinx makes the documentation site: `make site`."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pgoutbox

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "pgoutbox"
author = "The pgoutbox developers"
copyright = author
release = version = pgoutbox.__version__

extensions = ["myst_parser"]
myst_heading_anchors = 4  # as GitHub has them, so links work in both places
myst_enable_extensions = ["colon_fence"]
exclude_patterns = ["performance"]

html_theme = "furo"
html_title = f"pgoutbox {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/logo.svg"
html_show_sphinx = False
html_theme_options = {"sidebar_hide_name": False}

# A block of a log or of a terminal isn't a language, and a message in the docs may be shortened.
suppress_warnings = ["misc.highlighting_failure"]


def _link_to_repository(_: Sphinx, __: str, source: list[str]) -> None:
    """Turn links to files outside docs/ into links to the repository, where its address is known.

    GitHub names it to its workflows. Elsewhere the file's name stays, without a link.
    """
    repository = os.environ.get("GITHUB_REPOSITORY")
    if repository:
        files = (
            f"{os.environ['GITHUB_SERVER_URL']}/{repository}/blob/{os.environ['GITHUB_REF_NAME']}"
        )
        source[0] = re.sub(r"\]\(\.\./", f"]({files}/", source[0])
    else:
        source[0] = re.sub(r"\[([^]]+)\]\(\.\./[^)]+\)", r"\1", source[0])


def setup(app: Sphinx) -> None:
    """Register what this file adds to Sphinx."""
    app.connect("source-read", _link_to_repository)
