"""Messages as lines of NATS's client protocol; see https://docs.nats.io."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import repeat

from pgoutbox.errors import TooLarge
from pgoutbox.messages.event import Message
from pgoutbox.messages.headers import header_lines

MAX_PAYLOAD = "the server's max_payload"  # as a limit is called

_HEADER_ROOM = 118  # bytes: version 10, id 28 around the event's, expectation 78, empty line 2


def message_id(message: Message) -> str:
    """Return the ``Nats-Msg-Id``: the event's id, a dot, and a hash of the subject.

    Two relays may publish an event under two subjects into one stream, which must store both.
    """
    return f"{message.id}.{_hash(message.subject)}"


@lru_cache(maxsize=4096)
def _hash(subject: str) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of ``subject``."""
    return hashlib.sha256(subject.encode()).hexdigest()[:12]


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
    for (subject, event_id, payload, further, *_), reply, expectation in zip(
        messages, replies, expectations, strict=False
    ):
        name = f"{event_id}.{_hash(subject)}"
        lines = header_lines(further) if further else ""
        headers = f"NATS/1.0\r\nNats-Msg-Id: {name}\r\n{expectation}{lines}\r\n"
        size = len(headers) if headers.isascii() else len(headers.encode())
        line = f"HPUB {subject} {reply} {size} {size + len(payload)}\r\n{headers}"
        parts += line.encode(), payload, b"\r\n"
    return b"".join(parts)


def fitting(
    messages: Sequence[Message],
    max_payload: int,
    takes: Callable[[str], bool] = lambda _: True,
) -> int:
    """Return how many of ``messages``, from the first, can be published.

    They don't exceed ``max_payload`` bytes, and where they are emitted, the stream ``takes`` their
    subjects. Each is a message by itself: none ``removes`` others, or lacks a subject.
    """
    room = max_payload - _HEADER_ROOM
    for index, (subject, event_id, payload, headers, _, is_emitted, removes) in enumerate(messages):
        lines = len(header_lines(headers).encode()) if headers else 0
        if len(payload) + len(event_id) + lines > room:
            return index
        if removes or not subject or (is_emitted and not takes(subject)):
            return index
    return len(messages)


def too_large(message: Message, max_payload: int) -> TooLarge:
    """Return the error for a message that exceeds ``max_payload`` bytes."""
    refusal = TooLarge(
        f"a payload of {len(message.payload)} bytes exceeds the server's max_payload"
        f" of {max_payload}",
        subject=message.subject,
    )
    refusal.limit = MAX_PAYLOAD
    return refusal
