"""Repeats that can't be a predecessor's: are the messages in the stream the relay's own?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import islice

from pgoutbox.errors import IdConflict
from pgoutbox.messages.event import Message
from pgoutbox.nats import streams
from pgoutbox.nats.client import NatsClient
from pgoutbox.nats.failures import Denied
from pgoutbox.nats.streams import Target
from pgoutbox.nats.tenure import Tenure
from pgoutbox.nats.window import Repeat, Window

log = logging.getLogger("pgoutbox.nats")

_READS_AT_ONCE = 100  # messages


class Repeats:
    """Compares repeats with the messages of the stream that have their ids."""

    def __init__(self, client: NatsClient, target: Target, tenure: Tenure) -> None:
        self._client = client
        self._target = target
        self._tenure = tenure

    async def examine(self, window: Window, stream: str) -> None:
        """Accept the next repeats of ``window`` if the stream's messages are ours, or gone.

        Raises:
            IdConflict: one isn't.
            Interrupted: the stream didn't say.
        """
        repeats = list(islice(window.repeats(), _READS_AT_ONCE))
        messages = [window.messages[repeat.number] for repeat in repeats]
        stored = await self._stored(repeats, stream)
        for repeat, message, found in zip(repeats, messages, stored, strict=True):
            if found is not None and not found.is_of(message):
                raise self._conflict(message, stream, repeat.sequence)
            window.accept(repeat.number)

    async def _stored(
        self, repeats: Sequence[Repeat], stream: str
    ) -> Sequence[streams.StoredMessage | None]:
        """Return the stream's messages; None for those that it doesn't have, or doesn't show."""
        if self._tenure.may_read:
            reads = (
                streams.stored(self._client, self._target, stream, repeat.sequence)
                for repeat in repeats
            )
            try:
                return await asyncio.gather(*reads)
            except Denied as denial:
                self._tenure.may_read = False
                log.warning(
                    "can't check that repeats are the relay's own: reading the stream is denied",
                    extra={"subject": denial.subject},
                )
        return [None] * len(repeats)

    def _conflict(self, message: Message, stream: str, sequence: int) -> IdConflict:
        if self._tenure.conflict != message.id:
            self._tenure.conflict = message.id
            log.error(
                "an event can't be stored: another publisher's message in the stream has its id",
                extra={"id": message.id, "stream": stream, "seq": sequence},
            )
        return IdConflict(
            "another publisher's message in the stream has an event's id",
            hint="The event is published when the stream's duplicate window has passed."
            " Who else may publish to its subject?",
            subject=message.subject,
        )
