"""``python -m pgoutbox`` is ``pgoutbox``."""

from pgoutbox.cli import main

main()
