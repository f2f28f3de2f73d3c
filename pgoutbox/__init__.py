"""PostgreSQL row changes on NATS, without a replication slot, in wal-listener's format.

What may be imported and stays as it is: the names in ``__all__`` of this package, of
:mod:`pgoutbox.consumer` and of :mod:`pgoutbox.testing`, the fixtures of
:mod:`pgoutbox.testing.plugin`, and the modules of :mod:`pgoutbox.contrib`. All else is internal.
"""

from __future__ import annotations

# Imports nothing: Ctrl-C meanwhile would be a traceback, before the command is there to prevent it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgoutbox.embedded import Relay
    from pgoutbox.errors import PgoutboxError
    from pgoutbox.messages.event import Message

__version__ = "0.1.0"
__all__ = ["Message", "PgoutboxError", "Relay", "__version__"]


_HOMES = {
    "Message": "pgoutbox.messages.event",
    "PgoutboxError": "pgoutbox.errors",
    "Relay": "pgoutbox.embedded",
}


def __getattr__(name: str) -> object:
    """Import what is asked for when it is, so that a command doesn't pay for it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
