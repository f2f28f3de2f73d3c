"""Complete the metadata: the readme with the changelog, and the repository's addresses.

GitHub names the repository that publishes; built elsewhere, the package has no addresses.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class MetadataHook(MetadataHookInterface):
    """What hatchling calls for the fields that pyproject.toml names as dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in readme and urls."""
        folder = Path(self.root)
        changelog = (folder / "CHANGELOG.md").read_text()
        text = f"{(folder / 'README.md').read_text()}\n{changelog.replace('#', '##', 1)}"
        if repository := os.environ.get("GITHUB_REPOSITORY"):
            home = f"{os.environ['GITHUB_SERVER_URL']}/{repository}"
            files = f"{home}/blob/{os.environ['GITHUB_REF_NAME']}"
            text = re.sub(r"(?<=\]\()(?![a-z]+:|#)", f"{files}/", text)
            metadata["urls"] = {
                "Changelog": f"{files}/CHANGELOG.md",
                "Documentation": f"{files}/README.md#readme",
                "Issues": f"{home}/issues",
                "Source": home,
            }
        else:
            metadata["urls"] = {}
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
