"""``python -m pgoutbox`` is ``pgoutbox``."""

from __future__ import annotations

from pgoutbox.cli import main

main()
