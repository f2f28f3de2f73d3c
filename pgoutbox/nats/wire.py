"""Messages as lines of NATS's client protocol, which https://docs.nats.io describes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

from pgoutbox.errors import Refused
from pgoutbox.messages.event import Message

_HEADER_ROOM = 130  # bytes: version 10, id 51, id or sequence to follow 65, empty line 2


def hpubs(
    messages: Sequence[Message],
    replies: Iterable[str] = repeat(""),
    places: Iterable[str] = repeat(""),
) -> bytes:
    """Return an HPUB for each of ``messages``, in one piece.

    ``replies`` are the subjects for answers to each, empty where it asks for none; ``places`` the
    headers, if any, that say what each has to follow.
    """
    parts: list[bytes] = []
    for (subject, name, payload, more, _), reply, place in zip(
        messages, replies, places, strict=False
    ):
        headers = f"NATS/1.0\r\nNats-Msg-Id: {name}\r\n{place}{more}\r\n"
        size = len(headers) if headers.isascii() else len(headers.encode())
        line = f"HPUB {subject} {reply} {size} {size + len(payload)}\r\n{headers}"
        parts += line.encode(), payload, b"\r\n"
    return b"".join(parts)


def fitting(messages: Sequence[Message], max_payload: int) -> int:
    """Return how many of ``messages``, from the first, the server's limit lets through."""
    room = max_payload - _HEADER_ROOM
    for index, (_, _, payload, headers, _) in enumerate(messages):
        if len(payload) + (len(headers.encode()) if headers else 0) > room:
            return index
    return len(messages)


def too_large(message: Message, max_payload: int, *, confirmed: int = 0) -> Refused:
    """Return that the server never takes ``message``."""
    return Refused(
        f"a payload of {len(message.payload)} bytes exceeds the server's max_payload"
        f" of {max_payload}",
        confirmed=confirmed,
        subject=message.subject,
    )
