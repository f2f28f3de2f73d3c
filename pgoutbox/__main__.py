"""The command ``pgoutbox``, also as ``python -m pgoutbox``."""

from __future__ import annotations

import sys

_INTERRUPTED, _TERMINATED = 130, 143


def main() -> None:
    """Run the command line; a signal ends it without a traceback while it is imported, too."""
    try:
        _heed_sigterm()
        from pgoutbox.cli import main as run

        run()
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None
    finally:
        _give_up_stderr()


def _heed_sigterm() -> None:
    """End on SIGTERM where that takes a handler.

    The kernel spares the first process of a container the signals that it has no handler for.
    """
    import os
    import signal

    def end(*_: object) -> None:
        raise SystemExit(_TERMINATED)

    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, end)


def _give_up_stderr() -> None:
    """Leave nothing to be written at exit, which would end with a code of Python's own."""
    import os

    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):  # its disk is full, or it is closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


if __name__ == "__main__":
    main()
