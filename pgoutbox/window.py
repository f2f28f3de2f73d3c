"""Messages on their way to a stream, and what comes back for them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence

from pgoutbox.errors import Interrupted, Refused
from pgoutbox.message import Message

# Error codes of nats-server (server/errors.json).
_WRONG_PLACE = {10070, 10071, 10164}  # the message before isn't the expected one
_TOO_LARGE = {10054, 10097}  # the message, its headers
_STREAM_END = re.compile(r"wrong last sequence: (\d+)")


class Window:
    """Messages on their way to the stream, and what came back for them.

    Messages are numbered through the publisher's life, so that late answers to an earlier
    window are recognised. ``confirmations`` are how the stream's word begins; whoever hears our
    messages can answer them, and only the stream's word counts.
    """

    def __init__(
        self, start: int, confirmations: tuple[bytes, ...], messages: Sequence[Message]
    ) -> None:
        self._confirmations = confirmations
        self._messages = messages
        self.start = start
        self.end = start
        self.confirmed = 0  # messages stored, counted from the first without a hole
        self.sequence: int | None = None  # in the stream, of the last message
        self.is_repeat = False  # the stream had the last message already
        self.refusal: Interrupted | None = None  # of the lowest message refused
        self.is_chain_broken = False
        self.stream_end: int | None = None  # its last sequence, where that is why it refused
        self._refused = -1
        self._early: dict[int, bytes] = {}  # acknowledged before one of their predecessors
        self._waiter: asyncio.Future[None] | None = None
        self._awaited = 0

    def __len__(self) -> int:
        return self.end - self.start

    def is_settled(self, count: int) -> bool:
        """Tell whether the first ``count`` messages are stored, or as many as will be."""
        return self.confirmed >= count or self.is_refused_next

    @property
    def is_refused_next(self) -> bool:
        """Whether the message after the confirmed ones is the one refused.

        A refusal can overtake the acknowledgements of earlier messages.
        """
        return self.confirmed == self._refused

    def changed(self, count: int) -> asyncio.Future[None]:
        """Return a future that is done when :meth:`is_settled` has something new to say."""
        self._awaited = count
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def wake(self) -> None:
        """Let :meth:`changed` say that there is something new."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def on_ack(self, number: int, ack: bytes) -> None:
        """Take an answer of the stream to the message of that number."""
        index = number - self.start
        if index < self.confirmed:
            return
        if not ack.startswith(self._confirmations):
            self._refuse(index, ack)
        elif index > self.confirmed:
            self._early[index] = ack
            return
        else:
            while True:
                self.confirmed += 1
                if self.confirmed == len(self):
                    answer = json.loads(ack)
                    self.sequence = answer["seq"]
                    self.is_repeat = answer.get("duplicate", False)
                if self.confirmed not in self._early:
                    break
                ack = self._early.pop(self.confirmed)
        if self.confirmed >= self._awaited or self.is_refused_next:
            self.wake()

    def _refuse(self, index: int, answer: bytes) -> None:
        if 0 <= self._refused <= index:
            return
        self._refused = index
        self.refusal, self.is_chain_broken = _refusal(answer, self._messages[index].subject)
        found = _STREAM_END.search(str(self.refusal))
        self.stream_end = int(found[1]) if found else None


def _refusal(answer: bytes, subject: str) -> tuple[Interrupted, bool]:
    """Return why a message was refused, and whether only its place in the chain was wrong."""
    if not answer:
        return Interrupted(
            "no stream takes a message's subject",
            hint="Has the stream been deleted, or do its subjects leave out this one?",
            subject=subject,
        ), False
    match _parsed(answer):
        case {"error": {"err_code": int(code), "description": str(said)}}:
            if code in _TOO_LARGE:
                return Refused(f"the stream refuses it: {said}", subject=subject), False
            return Interrupted(f"the stream refuses messages: {said}"), code in _WRONG_PLACE
        case {"stream": str(name), "domain": str(domain)}:
            who = f": the stream {name!r} of the domain {domain!r}"
        case {"stream": str(name)}:
            who = f": the stream {name!r}"
        case _:
            who = ""
    return Interrupted(
        f"somebody else than the stream answers a message{who}",
        hint="Does another stream, or a service that replies, listen to its subject?",
        subject=subject,
    ), False


def _parsed(answer: bytes) -> object:
    """Return an answer's JSON; None where it is none, for anybody may have answered."""
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None
