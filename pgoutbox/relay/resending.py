"""Sending again what somebody wants again, some at a time, behind what is newer."""

from __future__ import annotations

import logging

from pgoutbox.errors import Refused
from pgoutbox.nats.connect import Publisher
from pgoutbox.outbox.reader import Outbox
from pgoutbox.outbox.resends import Resend, Some

log = logging.getLogger("pgoutbox.relay")


class Resending:
    """The oldest request of ``pgoutbox resend`` that is left, and how far that has come.

    How far is recorded after each part, so a relay that is killed sends that part once more, with
    the same message ids.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._request: Resend | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether events are to be sent again."""
        return self._request is not None

    async def look(self) -> None:
        """Look whether somebody wants events again."""
        before = self._request
        self._request = await self._outbox.next_resend()
        if self._request is not None and before is None:
            log.info(
                "sending events again",
                extra={"resend": self._request.number, "events": self._request.events},
            )

    async def publish_some(self, publisher: Publisher) -> None:
        """Publish some of them; nothing else is in flight.

        Raises:
            Interrupted: not all of them could be published.
            LeadershipLost: another relay of the same name has taken over.
        """
        request = self._request
        if request is None:
            return
        some = await self._outbox.read_again(request)
        sent = await self._publish(some, publisher)
        await self._outbox.note_resent(request, some, sent)
        if some.is_end:
            log.info(
                "events were sent again",
                extra={"resend": request.number, "events": request.sent + sent},
            )
            self._request = None
        await self.look()

    @staticmethod
    async def _publish(some: Some, publisher: Publisher) -> int:
        """Publish all of them but those that can't be; return how many."""
        rest, sent = some.messages, 0
        while rest:
            try:
                await publisher.publish(rest)
                return sent + len(rest)
            except Refused as refusal:
                sent += refusal.confirmed
                log.error(
                    "event not sent again: it cannot be published",
                    extra={"id": rest[refusal.confirmed].id, "reason": str(refusal)},
                )
                rest = rest[refusal.confirmed + 1 :]
        return sent
