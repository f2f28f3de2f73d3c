"""Repeats that can't be a predecessor's: are the messages in the stream the relay's own?"""

from __future__ import annotations

import logging
from itertools import islice

from pgoutbox.errors import IdConflict
from pgoutbox.messages.event import Message
from pgoutbox.nats.reading import Reading
from pgoutbox.nats.tenure import Tenure
from pgoutbox.nats.window import Window

log = logging.getLogger("pgoutbox.nats")

_READS_AT_ONCE = 100  # messages


class Repeats:
    """Compares repeats with the messages of the stream that have their ids."""

    def __init__(self, reading: Reading, tenure: Tenure) -> None:
        self._reading = reading
        self._tenure = tenure

    async def examine(self, window: Window, stream: str) -> None:
        """Accept the next repeats of ``window`` if the stream's messages are ours, or gone.

        Raises:
            IdConflict: one isn't.
            Interrupted: the stream didn't say.
        """
        repeats = list(islice(window.repeats(), _READS_AT_ONCE))
        messages = [window.messages[repeat.number] for repeat in repeats]
        stored = await self._reading.messages(stream, (repeat.sequence for repeat in repeats))
        for repeat, message, found in zip(repeats, messages, stored, strict=True):
            if found is not None and not found.is_of(message):
                raise self._conflict(message, stream, repeat.sequence)
            window.accept(repeat.number)

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
