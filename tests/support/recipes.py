"""The recipes of the documents, as their readers copy them."""

from __future__ import annotations

import re

from tests.support.commands import ROOT

_RECIPE = re.compile(r"^<!-- recipe: (.+?) -->\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def recipes(page: str) -> dict[str, str]:
    """Return the text of each recipe on a page of docs/, by its name."""
    return dict(_RECIPE.findall((ROOT / "docs" / page).read_text("utf-8")))
