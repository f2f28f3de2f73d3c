"""What the stream has: is a message that it confirmed still there, and which came last?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from pgoutbox.messages.event import LastStored
from pgoutbox.nats import streams
from pgoutbox.nats.client import NatsClient
from pgoutbox.nats.failures import Denied
from pgoutbox.nats.streams import StoredMessage, StreamInfo, Target
from pgoutbox.nats.tenure import Tenure

log = logging.getLogger("pgoutbox.nats")


class Reading:
    """Reads messages of the stream by their sequences, if the relay's user may."""

    def __init__(self, client: NatsClient, target: Target, tenure: Tenure) -> None:
        self._client = client
        self._target = target
        self._tenure = tenure

    async def messages(self, stream: str, sequences: Iterable[int]) -> list[StoredMessage | None]:
        """Return the stream's messages; None for those that it doesn't have, or doesn't show.

        Raises:
            Interrupted: the stream didn't say.
        """
        sequences = list(sequences)
        if self._tenure.may_read:
            reads = (
                streams.stored(self._client, self._target, stream, sequence)
                for sequence in sequences
            )
            try:
                return await asyncio.gather(*reads)
            except Denied as denial:
                self._tenure.may_read = False
                log.warning(
                    "can't check that repeats are the relay's own, or what the stream has lost"
                    " since it was made: reading it is denied",
                    extra={"subject": denial.subject},
                )
        return [None] * len(sequences)

    async def has(self, stream: StreamInfo, last: LastStored) -> bool:
        """Return True if a stream has a message that it confirmed, or had it removed since.

        Limits, purges and consumers of work queues leave the stream's sequence as it is. Without
        the message to look at, the stream must be the same one.
        """
        if stream.end < last.sequence:
            return False
        found = None
        if stream.first <= last.sequence:
            (found,) = await self.messages(stream.name, [last.sequence])
        if found is None:
            return (stream.name, stream.created) == (last.stream, last.created)
        return found.id == last.id
