"""A message of the relay's stream as an object."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nats.aio.msg import Msg

from pgoutbox.messages.event import EventNumber


@dataclass(frozen=True)
class Change:
    """One row change, or an event that an application emitted.

    ``commit_time`` is RFC 3339 as it was published; ``committed_at`` is the same as a datetime.
    """

    id: str
    subject: str
    schema: str
    table: str
    action: str  # INSERT, UPDATE, DELETE, TRUNCATE; READ in a snapshot
    data: dict[str, Any]  # the row after the change; empty after DELETE and TRUNCATE
    data_old: dict[str, Any]  # the row before it; empty for INSERT and TRUNCATE
    commit_time: str
    headers: dict[str, str]
    sequence: int  # in the stream
    deliveries: int  # 1 the first time

    @classmethod
    def of(cls, message: Msg) -> Change:
        """Return the change that a message of JetStream carries, in any of the formats.

        Raises:
            ValueError: it carries none.

        """
        headers = dict(message.headers or {})
        try:
            payload = json.loads(message.data)
            if "specversion" in payload:  # a CloudEvent, structured
                payload = payload["data"]
            return cls(
                payload["id"],
                message.subject,
                payload["schema"],
                payload["table"],
                payload["action"],
                payload["data"],
                payload["dataOld"],
                payload["commitTime"],
                headers,
                message.metadata.sequence.stream,
                message.metadata.num_delivered,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"the message at sequence {message.metadata.sequence.stream} of stream"
                f" {message.metadata.stream} is no row change"
            ) from error

    @property
    def row(self) -> dict[str, Any]:
        """The row: as it is now, or as it was before a DELETE."""
        return self.data or self.data_old

    @property
    def committed_at(self) -> datetime:
        """When the transaction committed."""
        return datetime.fromisoformat(self.commit_time)

    @property
    def transaction(self) -> int | None:
        """The position of its transaction in commit order; needs the relay's ``--headers``."""
        text = self.headers.get("Pgoutbox-Transaction")
        return None if text is None else int(text)

    @property
    def number(self) -> EventNumber | None:
        """Which of its transaction's events it is; needs the relay's ``--headers``."""
        if "Pgoutbox-Transaction-Event" not in self.headers:
            return None
        return EventNumber(
            int(self.headers["Pgoutbox-Transaction-Event"]),
            int(self.headers["Pgoutbox-Transaction-Size"]),
        )
