"""A relay inside an application's own event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pgoutbox.config import load
from pgoutbox.config.settings import SETTINGS
from pgoutbox.database.target import target_of
from pgoutbox.messages.event import Message
from pgoutbox.names import suggest
from pgoutbox.nats import credentials
from pgoutbox.relay.daemon import Daemon

log = logging.getLogger("pgoutbox.relay")

_LOOK = 0.02  # seconds between looks at whether it is ready


class Relay:
    """Publishes the outbox while the block of ``async with`` runs.

    ::

        async with pgoutbox.Relay(dsn=..., nats_url="nats://localhost:4222") as relay:
            await relay.ready()
            ...

    It is the relay of ``pgoutbox relay``, and behaves like it: it waits for servers that are away,
    stands by while another of its name leads, and confirms what it has sent before it ends. It
    handles no signals, reads no environment and doesn't set up logging.

    Args:
        config: path of a configuration file.
        on_published: called with each message that the stream has confirmed, in order; it must not
            block. What it raises is logged and otherwise ignored.
        settings: those of ``pgoutbox relay``, named like its flags: ``dsn``, ``nats_url``,
            ``name``, ``topic``, ``headers``, …; strings as on the command line, or their values.

    Raises:
        TypeError: there is no such setting.
        ConfigError: a setting is wrong.

    """

    def __init__(
        self,
        *,
        config: Path | str | None = None,
        on_published: Callable[[Message], object] | None = None,
        **settings: object,
    ) -> None:
        for name in settings.keys() - _PARAMETERS:
            raise TypeError(f"there is no setting {name!r}{suggest(name, _PARAMETERS)}")
        found = load.load(settings, {}, Path(config) if config else None)
        target_of(found.database)
        credentials.check_files(found.nats)
        self._on_published = on_published
        self._stop = asyncio.Event()
        self._daemon = Daemon(found, stop=self._stop, on_stored=self._tell)
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self._daemon.serve())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._stop.set()
        if kind is None:
            await self._task
        else:  # the error of the block is the one that counts
            await asyncio.wait({self._task})

    @property
    def is_ready(self) -> bool:
        """Whether it leads and has stored what it found, or stands by; as ``/ready`` tells."""
        return not self._task.done() and self._daemon.monitor.is_ready

    @property
    def is_leading(self) -> bool:
        """Whether it leads, rather than stands by or waits for a server."""
        return not self._task.done() and self._daemon.monitor.is_leading

    @property
    def published(self) -> int:
        """How many messages the stream has confirmed."""
        return self._daemon.monitor.sent

    async def ready(self) -> None:
        """Return once it is ready.

        Raises:
            PgoutboxError: it has ended, for what it can't work with: a setting, a schema of
                another version.

        """
        while not self.is_ready:
            if self._task.done():
                await self._task
                raise RuntimeError("the relay has stopped")
            await asyncio.sleep(_LOOK)

    @property
    def _task(self) -> asyncio.Task[None]:
        if self._serving is None:
            raise RuntimeError("the relay runs inside async with")
        return self._serving

    def _tell(self, messages: Sequence[Message]) -> None:
        if self._on_published is None:
            return
        for message in messages:
            try:
                self._on_published(message)
            except Exception:
                log.exception("on_published failed")


_PARAMETERS = frozenset(setting.parameter for setting in SETTINGS if setting.flag)
