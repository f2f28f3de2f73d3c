"""Installing from the relay, where its settings ask for that."""

from __future__ import annotations

import asyncio
import logging

from pgoutbox.config.settings import Config
from pgoutbox.database import connection as database
from pgoutbox.database import schema
from pgoutbox.errors import InstallError, PgoutboxError
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.relay.outage import Outage

log = logging.getLogger("pgoutbox.relay")


class Installer:
    """Does what ``pgoutbox install`` does: before the relay starts, and again in the background.

    A table that can't be captured now holds up no other table's events: the relay starts, and
    this keeps trying.
    """

    def __init__(self, config: Config, monitor: Monitor, *, draining: bool) -> None:
        self._config = config
        self._monitor = monitor
        self._is_draining = draining
        self._is_installed = not config.relay.install
        self._outage = Outage("install failed; retrying", "install succeeded")
        self._task: asyncio.Task[None] | None = None
        self._said: set[str] = set()  # by this attempt
        self._said_before: set[str] = set()  # by the one before

    async def run_once(self) -> None:
        """Install unless that is done, or not asked for.

        Raises:
            InstallError: a table can't be captured, and the relay can't start without it.
        """
        if self._is_installed:
            return
        self._monitor.step(self._config.install.lock_wait)
        try:
            await self._install()
        except InstallError as error:
            if self._is_draining or not await self._has_schema():
                raise
            self._outage.begin(error)
            self.run_in_background()
        self._is_installed = True

    def forget(self) -> None:
        """Install anew at the next :meth:`run_once`: what was installed is gone."""
        self._is_installed = not self._config.relay.install

    def run_in_background(self) -> None:
        """Install beside the relay, again and again until it succeeds."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._keep_installing())

    async def stop(self) -> None:
        """End what runs in the background."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _has_schema(self) -> bool:
        async with database.session(self._config.database, purpose="install") as connection:
            return (await schema.state(connection)).functions_version is not None

    async def _install(self) -> None:
        from pgoutbox.database import install

        self._said_before, self._said = self._said, set()
        async with database.session(self._config.database, purpose="install") as connection:
            await install.install(
                connection,
                (),
                self._config.install,
                self._say,
                warn=self._say if self._is_installed else log.warning,
                alarm=log.warning,
            )

    def _say(self, line: str) -> None:
        if not self._is_installed:  # else the relay is at work, and gives signs of life itself
            self._monitor.step(self._config.install.lock_wait)
        log.log(logging.DEBUG if line in self._said_before else logging.INFO, line)
        self._said.add(line)

    async def _keep_installing(self) -> None:
        while True:
            try:
                await self._install()
                return self._outage.end()
            except PgoutboxError as error:
                self._outage.begin(error)
            await asyncio.sleep(max(1.0, self._config.install.lock_wait))
