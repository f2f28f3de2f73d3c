"""The stream to publish into: found, or created, through JetStream's API.

The API takes JSON requests on subjects such as ``$JS.API.STREAM.INFO.<stream>``; see "JetStream
wire API" at https://docs.nats.io. It is used directly, because nats-py doesn't return a stream's
domain, and returns only the first of several streams that have a subject.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any, NamedTuple

import nats.errors

from pgoutbox.config.settings import MessageConfig, StreamConfig
from pgoutbox.errors import Interrupted, Refused
from pgoutbox.messages.event import SNAPSHOT_HEADER, Message
from pgoutbox.messages.headers import header_lines
from pgoutbox.nats.client import NatsClient
from pgoutbox.nats.failures import LOST, text_of
from pgoutbox.subjects import Naming, Template, bucket_subjects

log = logging.getLogger("pgoutbox.nats")

# Error codes of nats-server (server/errors.json).
_NOT_FOUND = {10037, 10059}  # a message, a stream
_NOT_ENABLED = {10039, 10076}
_TIMEOUT = 5.0  # seconds
_MESSAGE_ID = re.compile(rb"\r\nNats-Msg-Id: ([^\r\n]+)\r\n")

# What makes a stream a key-value bucket, as NATS's clients make it (ADR-8).
_BUCKET = {
    "max_msgs_per_subject": 1,
    "discard": "new",
    "allow_rollup_hdrs": True,
    "deny_delete": True,
    "allow_direct": True,
}
_API_LEVEL_OF_BATCHES = 4  # fast-ingest ones
_ATOMIC_SINCE = (2, 12, 1)  # nats-server; before, a change of leader could tear a batch


class StreamInfo(NamedTuple):
    """What the relay needs to know about a stream."""

    name: str
    subjects: list[str]
    replicas: int
    end: int  # its last sequence
    domain: str | None  # as in its acknowledgements
    takes_batches: bool = False  # fast-ingest ones (allow_batched)
    takes_atomic: bool = False  # atomic ones (allow_atomic)
    first: int = 1  # its first sequence; what was before that has been removed
    created: str = ""  # when, as the server writes it
    keeps: float | None = None  # seconds, for which its messages stay; None where all have stayed
    duplicate_window: float = 0.0  # seconds, for which it drops repeats

    def takes(self, subject: str) -> bool:
        """Return True if it stores messages of that subject."""
        return any(overlap(subject, own) for own in self.subjects)

    @property
    def confirmations(self) -> tuple[bytes, ...]:
        """How its acknowledgements begin; any other subscriber could answer our messages, too."""
        names = {"stream": self.name} | ({"domain": self.domain} if self.domain else {})
        spellings = [(",", ":"), (", ", ":")]  # by release of nats-server
        return tuple(
            json.dumps(names, separators=spelling, ensure_ascii=False)[:-1].encode()
            + f'{spelling[0]}"seq":'.encode()
            for spelling in spellings
        )


class StoredMessage(NamedTuple):
    """A message of the stream: its header block and its payload."""

    headers: bytes
    payload: bytes

    @property
    def id(self) -> str:
        """Its ``Nats-Msg-Id``; empty where it has none."""
        found = _MESSAGE_ID.search(self.headers)
        return found[1].decode(errors="replace") if found else ""

    def is_of(self, message: Message) -> bool:
        """Return True if it is what the relay publishes for the event of ``message``.

        A row that a snapshot has read once more, after a restart, may have changed; then events
        between the two say so.
        """
        for name, value in message.headers:
            if name == SNAPSHOT_HEADER:
                own = f"\r\n{name}: {value.partition(';')[0]};"
                return own.encode() in self.headers
        return self.payload == message.payload and self.headers.endswith(
            f"{header_lines(message.headers)}\r\n".encode()
        )


class Target(NamedTuple):
    """Which stream a relay needs."""

    config: StreamConfig
    topic: str  # the name of a stream that the settings don't name
    subjects: list[str]  # that it must have
    emits: bool = False  # applications emit events of their own, of any subject below the topic
    bucket: str = ""  # that the stream must be

    @classmethod
    def of(cls, config: StreamConfig, messages: MessageConfig, *, emits: bool = False) -> Target:
        """Return which stream a relay with these settings needs."""
        return cls(config, messages.topic, subjects(messages), emits, messages.bucket)

    @property
    def new_subjects(self) -> list[str]:
        """The subjects of a stream that has to be created."""
        if not self.emits or self.bucket:
            return self.subjects
        below = f"{self.topic}.>"
        return [below, *(subject for subject in self.subjects if not overlap(subject, below))]


async def ensure(client: NatsClient, target: Target) -> StreamInfo:
    """Return the stream to publish into; create it if there is none.

    That is the stream named in the settings. Without a name it is the one named after the topic,
    as in wal-listener, if that has any of our subjects; otherwise the only stream that has.

    Raises:
        Interrupted: there is none and none can be created, or there are several.
    """
    found = await _existing(client, target)
    return found or await _create(client, target, target.config.name or target.topic)


async def existing(client: NatsClient, target: Target) -> StreamInfo:
    """Return the stream that :func:`ensure` would, and create none.

    Raises:
        Interrupted: there is none, or there are several.
    """
    found = await _existing(client, target)
    if found is None:
        raise Interrupted(
            f"no stream has the subjects {_listed(target.subjects)}",
            hint="The relay creates one when it first connects; --stream names another.",
        )
    return found


async def name_of_existing(client: NatsClient, target: Target) -> str | None:
    """Return the name of the stream that :func:`ensure` would return; None if it would make one.

    Raises:
        Interrupted: there are several, or the one that there is can't be used.
    """
    found = await _existing(client, target)
    return found.name if found else None


async def ask(client: NatsClient, target: Target, subject: str) -> dict[str, Any] | None:
    """Return JetStream's answer to a question; None if what it is about doesn't exist.

    Raises:
        Denied: the user may not ask.
        Interrupted: JetStream doesn't answer, or says no.
    """
    return await _request(client, target, subject, {}, is_optional=True)


async def _existing(client: NatsClient, target: Target) -> StreamInfo | None:
    name = target.config.name or target.topic
    found = await find(client, target, name)
    if found and (target.config.name or _has_any(found.subjects, target)):
        return found
    if not target.config.name and (other := await _only_stream_with_our_subjects(client, target)):
        found = await find(client, target, other)
        if found:
            return found
    if found:
        raise Interrupted(
            f"the stream {name!r} has the subjects {_listed(found.subjects)},"
            f" not {_listed(target.subjects)}",
            hint="Add the missing subjects to it, or name another stream with --stream.",
        )
    return None


async def find(client: NatsClient, target: Target, name: str) -> StreamInfo | None:
    """Return what is known about a stream, or None if it doesn't exist.

    Raises:
        Interrupted: JetStream doesn't answer, or the stream can't be used.
    """
    info = await _request(client, target, f"STREAM.INFO.{name}", {})
    if info is None:
        return None
    settings = info["config"]
    if settings.get("no_ack"):
        raise Interrupted(
            f"the stream {name!r} sends no acknowledgements, so nothing would ever count as sent",
            hint="Set its no_ack to false, or publish without a stream, with --no-jetstream.",
        )
    if target.bucket and not _is_bucket(settings, target):
        raise Interrupted(
            f"the stream {name!r} isn't a key-value bucket",
            hint="Name another bucket with --kv-bucket, or delete the stream: the relay makes it.",
        )
    if target.config.mode == "fast" and not settings.get("allow_batched"):
        raise Interrupted(
            f"the stream {name!r} doesn't accept fast-ingest batches",
            hint="Set its allow_batched to true (nats-server 2.14 or later), or leave out --mode.",
        )
    return StreamInfo(
        name,
        settings.get("subjects") or [],
        settings.get("num_replicas") or 1,
        info["state"]["last_seq"],
        info.get("domain"),
        bool(settings.get("allow_batched")),
        bool(settings.get("allow_atomic")) and client.version >= _ATOMIC_SINCE,
        info["state"]["first_seq"],
        info["created"],
        _kept(info),
        settings.get("duplicate_window", 0) / 1e9,
    )


def _kept(info: dict[str, Any]) -> float | None:
    """Return how old the oldest message is where older ones have been removed; None elsewhere."""
    state, now = info["state"], info.get("ts")
    if state["first_seq"] <= 1 or not now:  # it tells the time from nats-server 2.10 on
        return None
    return moment_of(now) - moment_of(state["first_ts"]) if state["messages"] else 0.0


def moment_of(text: str) -> float:
    """Return a time of JetStream's, which has nanoseconds, as seconds since 1970."""
    return datetime.fromisoformat(text[:26].rstrip("Z")).replace(tzinfo=UTC).timestamp()


def _is_bucket(settings: dict[str, Any], target: Target) -> bool:
    return (
        settings.get("max_msgs_per_subject", -1) > 0
        and bool(settings.get("allow_rollup_hdrs"))
        and target.subjects[0] in (settings.get("subjects") or [])
    )


async def stored(
    client: NatsClient, target: Target, name: str, sequence: int
) -> StoredMessage | None:
    """Return a message of a stream, None if it isn't there any more.

    Raises:
        Denied: the user may not read it.
        Interrupted: JetStream doesn't answer.
    """
    found = await _request(
        client, target, f"STREAM.MSG.GET.{name}", {"seq": sequence}, is_optional=True
    )
    if found is None:
        return None
    message = found["message"]
    return StoredMessage(*(base64.b64decode(message.get(part, "")) for part in ("hdrs", "data")))


def subjects(config: MessageConfig) -> list[str]:
    """Return the subjects that a stream needs to store all our messages.

    They are the template of subjects with ``*`` for everything that depends on the event. That is
    wal-listener's ``<topic>.*`` unless a setting puts further dots into the subject. A bucket's are
    those of its keys.
    """
    if config.bucket:
        return [bucket_subjects(config.bucket)]
    naming = Naming(config.topic, config.topic_prefix, config.topics_map)
    found: list[str] = []
    for subject in Template(config.subject).patterns(naming):
        if not any(overlap(subject, known) for known in found):
            found.append(subject)
    return found


def are_ours(subject: str, target: Target) -> bool:
    """Tell whether a relay with this target publishes on ``subject``."""
    return any(overlap(subject, pattern) for pattern in target.subjects)


def overlap(one: str, other: str) -> bool:
    """Return True if some subject matches both."""
    for part, counterpart in zip_longest(one.split("."), other.split(".")):
        if part is None or counterpart is None:
            return False
        if ">" in (part, counterpart):
            return True
        if part != counterpart and "*" not in (part, counterpart):
            return False
    return True


def not_taken(message: Message, stream: StreamInfo) -> Refused:
    """Return the error for an emitted event of which the stream doesn't have the subject."""
    return Refused(
        f"the stream {stream.name!r} doesn't have this subject; it has {_listed(stream.subjects)}",
        hint="Add the subject to the stream; see docs/emitting.md.",
        subject=message.subject,
    )


def _has_any(taken: list[str], target: Target) -> bool:
    return any(overlap(subject, other) for subject in target.subjects for other in taken)


async def _only_stream_with_our_subjects(client: NatsClient, target: Target) -> str | None:
    names: set[str] = set()
    for subject in target.subjects:
        answer = await _request(client, target, "STREAM.NAMES", {"subject": subject})
        names.update((answer or {}).get("streams") or [])
    if len(names) > 1:
        raise Interrupted(
            f"several streams have some of our subjects: {_listed(sorted(names))}",
            hint="All events must go into one stream, to keep their order:"
            " give that one all the subjects, or name it with --stream.",
        )
    return names.pop() if names else None


async def _create(client: NatsClient, target: Target, name: str) -> StreamInfo:
    config = target.config
    wanted = {"name": name, "subjects": target.new_subjects, "num_replicas": config.replicas}
    # Only batches keep the order in a replicated stream at full speed.
    accepts_batches = config.replicas > 1 and client.api_level >= _API_LEVEL_OF_BATCHES
    if config.mode == "fast" or accepts_batches:
        wanted["allow_batched"] = True
    if target.bucket:
        wanted |= _BUCKET
    await _request(client, target, f"STREAM.CREATE.{name}", wanted)
    created = await find(client, target, name)
    if created is None:
        raise Interrupted(f"the stream {name!r} was deleted right after it was created")
    log.info("stream created", extra={"stream": name, "subjects": _listed(created.subjects)})
    return created


async def _request(
    client: NatsClient,
    target: Target,
    subject: str,
    body: object,
    *,
    is_optional: bool = False,  # the connection is of use even if this is denied
) -> dict[str, Any] | None:
    """Send a request to JetStream's API; return None if what it is about doesn't exist."""
    prefix = f"$JS.{target.config.domain}.API" if target.config.domain else "$JS.API"
    name = f"{prefix}.{subject}"
    answering = client.request(name, json.dumps(body).encode(), timeout=_TIMEOUT)
    try:
        message = await client.unless_failed(answering, optional=name if is_optional else None)
    except nats.errors.NoRespondersError as error:
        raise _not_available(target.config.domain) from error
    except nats.errors.TimeoutError as error:
        raise Interrupted(
            "JetStream doesn't answer", hint="Is a majority of the cluster's servers up?"
        ) from error
    except (OSError, nats.errors.Error) as error:
        raise Interrupted(f"{LOST}: {text_of(error)}") from error
    answer: dict[str, Any] = json.loads(message.data)
    problem = answer.get("error")
    if problem is None:
        return answer
    if problem.get("err_code") in _NOT_FOUND:
        return None
    if problem.get("err_code") in _NOT_ENABLED:
        raise _not_available(target.config.domain)
    raise Interrupted(
        f"JetStream rejected {subject}: {problem.get('description')}",
        hint=f"A relay needs a stream with {_listed(target.subjects)}; see docs/nats.md.",
    )


def _not_available(domain: str | None) -> Interrupted:
    if domain:
        return Interrupted(
            f"this NATS server can't reach a JetStream domain {domain!r}",
            hint="Check --js-domain, and the server's connection to that domain.",
        )
    return Interrupted(
        "JetStream is not available on this NATS server",
        hint="Start nats-server with --jetstream and enable it for the account, or publish without"
        " it, with --no-jetstream.",
    )


def _listed(parts: list[str]) -> str:
    return ", ".join(parts) or "no subjects"
