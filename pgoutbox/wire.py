"""Messages as lines of NATS's client protocol, which https://docs.nats.io describes."""

from __future__ import annotations

from collections.abc import Sequence

from pgoutbox.errors import Refused
from pgoutbox.message import Message

_HEADER_ROOM = 130  # bytes: version 10, id 51, id or sequence to follow 65, empty line 2


def hpub(message: Message, *, reply: str = "", place: str = "") -> tuple[bytes, ...]:
    """Return the parts of one HPUB: its line, its headers, the payload.

    ``place`` is the header, if any, that says what the message has to follow.
    """
    headers = f"NATS/1.0\r\nNats-Msg-Id: {message.id}\r\n{place}{message.headers}\r\n".encode()
    size = len(headers)
    line = f"HPUB {message.subject} {reply} {size} {size + len(message.payload)}\r\n"
    return line.encode(), headers, message.payload, b"\r\n"


def fitting(messages: Sequence[Message], max_payload: int) -> int:
    """Return how many of ``messages``, from the first, the server's limit lets through."""
    for index, message in enumerate(messages):
        if _HEADER_ROOM + len(message.headers.encode()) + len(message.payload) > max_payload:
            return index
    return len(messages)


def too_large(message: Message, max_payload: int, *, confirmed: int = 0) -> Refused:
    """Return that the server never takes ``message``."""
    return Refused(
        f"a payload of {len(message.payload)} bytes exceeds the server's max_payload"
        f" of {max_payload}",
        confirmed=confirmed,
    )
