"""SIGTERM and SIGINT, as an orderly stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_on_signal(stop: asyncio.Event) -> Iterator[None]:
    """Set ``stop`` on the first SIGINT or SIGTERM; a second one kills the process."""
    loop = asyncio.get_running_loop()
    # The default kills all but the first process of a container.
    kill = _exit if os.getpid() == 1 else signal.SIG_DFL

    def restore_defaults() -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(signum)
            signal.signal(signum, kill)

    def request_stop() -> None:
        restore_defaults()
        stop.set()

    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, request_stop)
    try:
        yield
    finally:
        restore_defaults()


def _exit(signum: int, _: object) -> None:
    os._exit(128 + signum)
