"""What is to be sent again: requests, and the parts in which they are done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pgoutbox.messages.event import Message
from pgoutbox.outbox.progress import Key

PART = 2_000  # events, at most, for which other messages wait
RESENT = "Pgoutbox-Resent"  # the header that tells such a message from the first one


class Resend(NamedTuple):
    """A request for events to be sent again; ``done`` is up to where that is done."""

    number: int
    events: int
    sent: int
    done: Key


class Some(NamedTuple):
    """A part of a request, up to ``done``; nothing is left behind it at the end."""

    messages: Sequence[Message]
    done: Key
    is_end: bool


def again(message: Message, number: int) -> Message:
    """Return a message as it is sent again for the request of that ``number``.

    The payload stays, with its id. The message has an id of its own, or the stream would drop it
    as a repeat.
    """
    return message._replace(
        id=f"{message.id}.r{number}", headers=(*message.headers, (RESENT, str(number)))
    )


NEXT = """
select r.number, r.events, r.sent, r.done_position, r.done_seq
from pgoutbox.resend r where r.relay = $1 and r.ended_at is null
order by r.number limit 1
"""

# How far the next part reaches: a look at thousands of transactions must not hold up the relay.
REACH = """
select max(t.position)
from pgoutbox.resend r
cross join lateral (
    select t.position from pgoutbox.transaction t
    where t.position >= greatest(r.first_position, r.done_position)
      and t.position <= r.last_position
      and (t.position > r.done_position or r.done_seq < 9223372036854775807)
      and (r.key_positions is null or t.position = any (r.key_positions))
    order by t.position limit 1000
) t
where r.number = $1
"""

KEYS = """
select k.position, k.seq
from pgoutbox.resend r cross join lateral pgoutbox.resend_keys(r, $2, $3) k
where r.number = $1
"""

TOUCH = "update pgoutbox.resend set sent = sent where number = $1"

NOTE = """
update pgoutbox.resend r
set done_position = $3, done_seq = $4, sent = r.sent + $5,
    ended_at = case when $6 then pg_catalog.clock_timestamp() end
from pgoutbox.progress p
where r.number = $1 and p.relay = r.relay and p.leadership = $2
returning r.number
"""
