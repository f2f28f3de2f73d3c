"""Messages as lines of NATS's client protocol; see https://docs.nats.io."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

from pgoutbox.errors import Refused
from pgoutbox.messages.event import Message
from pgoutbox.messages.headers import header_lines

_HEADER_ROOM = 130  # bytes: version 10, id 51, expectation 65, empty line 2


def hpubs(
    messages: Sequence[Message],
    replies: Iterable[str] = repeat(""),
    expectations: Iterable[str] = repeat(""),
) -> bytes:
    """Return an HPUB for each of ``messages``, concatenated.

    ``replies`` are their reply subjects, empty for those that ask for no answer; ``expectations``
    are the header lines that say what each must follow, possibly empty.
    """
    parts: list[bytes] = []
    for (subject, message_id, payload, further, _), reply, expectation in zip(
        messages, replies, expectations, strict=False
    ):
        lines = header_lines(further) if further else ""
        headers = f"NATS/1.0\r\nNats-Msg-Id: {message_id}\r\n{expectation}{lines}\r\n"
        size = len(headers) if headers.isascii() else len(headers.encode())
        line = f"HPUB {subject} {reply} {size} {size + len(payload)}\r\n{headers}"
        parts += line.encode(), payload, b"\r\n"
    return b"".join(parts)


def fitting(messages: Sequence[Message], max_payload: int) -> int:
    """Return how many of ``messages``, from the first, don't exceed ``max_payload`` bytes."""
    room = max_payload - _HEADER_ROOM
    for index, (_, _, payload, headers, _) in enumerate(messages):
        if len(payload) + (len(header_lines(headers).encode()) if headers else 0) > room:
            return index
    return len(messages)


def too_large(message: Message, max_payload: int) -> Refused:
    """Return the error for a message that exceeds ``max_payload`` bytes."""
    return Refused(
        f"a payload of {len(message.payload)} bytes exceeds the server's max_payload"
        f" of {max_payload}",
        subject=message.subject,
    )
