"""The command ``pgoutbox``, also as ``python -m pgoutbox``."""

from __future__ import annotations


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback while it is being imported, too."""
    try:
        from pgoutbox.cli import main as run

        run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
