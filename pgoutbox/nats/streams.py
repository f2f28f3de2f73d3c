"""The stream that takes our messages: found, or created, over JetStream's API.

The API is JSON in requests to subjects such as ``$JS.API.STREAM.INFO.<stream>``; see "JetStream
wire API" at https://docs.nats.io. It is spoken here directly, for nats-py leaves out a stream's
domain, and those that take a subject but for the first.
"""

from __future__ import annotations

import json
import logging
from itertools import zip_longest
from typing import Any, NamedTuple

import nats.errors

from pgoutbox.config.settings import PublisherConfig
from pgoutbox.errors import Interrupted
from pgoutbox.nats.client import NatsClient
from pgoutbox.nats.failures import words

log = logging.getLogger("pgoutbox.nats")

# Error codes of nats-server (server/errors.json).
_NOT_FOUND = 10059
_NOT_ENABLED = {10039, 10076}
_TIMEOUT = 5.0  # seconds


class StreamInfo(NamedTuple):
    """What there is to know of a stream."""

    name: str
    subjects: list[str]
    replicas: int
    end: int  # its last sequence
    domain: str | None  # that its acknowledgements name
    takes_batches: bool = False  # fast-ingest ones (allow_batched)

    @property
    def confirmations(self) -> tuple[bytes, ...]:
        """How its acknowledgements begin; whoever hears our messages can answer them, too."""
        names = {"stream": self.name} | ({"domain": self.domain} if self.domain else {})
        spellings = [(",", ":"), (", ", ":")]  # of different releases of nats-server
        return tuple(
            json.dumps(names, separators=spelling, ensure_ascii=False)[:-1].encode()
            + f'{spelling[0]}"seq":'.encode()
            for spelling in spellings
        )


async def see_to(client: NatsClient, config: PublisherConfig) -> StreamInfo:
    """Return the stream to publish into; create it where there is none.

    That is the one which is named in the settings. Where none is, it is the one named like the
    topic, as wal-listener has it, if that takes our subjects; else the only one that does.

    Raises:
        Interrupted: there is none and none can be made, or it isn't clear which one it is.

    """
    name = config.stream or config.topic
    found = await look_at(client, config, name)
    if found and (config.stream or _takes_any(found.subjects, config)):
        return found
    if not config.stream and (other := await _only_one_that_takes(client, config)):
        found = await look_at(client, config, other)
        if found:
            return found
    if found:
        raise Interrupted(
            f"the stream {name!r} takes {_listed(found.subjects)}, not {_listed(subjects(config))}",
            hint="Add these subjects to it, or name another stream with --stream.",
        )
    return await _create(client, config, name)


async def look_at(client: NatsClient, config: PublisherConfig, name: str) -> StreamInfo | None:
    """Return what there is to know of a stream, None where there is no such stream.

    Raises:
        Interrupted: JetStream doesn't say, or the stream is of no use to us.

    """
    info = await _ask(client, config, f"STREAM.INFO.{name}", {})
    if info is None:
        return None
    settings = info["config"]
    if settings.get("no_ack"):
        raise Interrupted(
            f"the stream {name!r} acknowledges nothing, so nothing would ever count as sent",
            hint="Set its no_ack to false, or do without a stream, with --no-jetstream.",
        )
    if config.mode == "fast" and not settings.get("allow_batched"):
        raise Interrupted(
            f"the stream {name!r} takes no fast-ingest batches",
            hint="Set its allow_batched to true (nats-server 2.14 and later), or leave --mode out.",
        )
    return StreamInfo(
        name,
        settings.get("subjects") or [],
        settings.get("num_replicas") or 1,
        info["state"]["last_seq"],
        info.get("domain"),
        bool(settings.get("allow_batched")),
    )


def subjects(config: PublisherConfig) -> list[str]:
    """Return what a stream that takes all our messages has to have for subjects.

    The subjects' template with ``*`` for all that depends on the event; wal-listener's
    ``<topic>.*`` where nothing in the settings has a dot, which that doesn't take.
    """
    template = config.subject or "{topic}.{prefix}{name}"
    varying = dict.fromkeys(("schema", "table", "action", "key"), "*")
    names = ["*", *config.topics_map.values()] if "{name}" in template else ["*"]
    found: list[str] = []
    for name in names:
        subject = template.format(
            topic=config.topic, prefix=config.topic_prefix, name=name, **varying
        )
        subject = ".".join("*" if "*" in part else part for part in subject.split("."))
        if not any(_overlap(subject, known) for known in found):
            found.append(subject)
    return found


def _overlap(one: str, other: str) -> bool:
    """Tell whether there is a subject that both take."""
    for part, counterpart in zip_longest(one.split("."), other.split(".")):
        if part is None or counterpart is None:
            return False
        if ">" in (part, counterpart):
            return True
        if part != counterpart and "*" not in (part, counterpart):
            return False
    return True


def _takes_any(taken: list[str], config: PublisherConfig) -> bool:
    return any(_overlap(subject, other) for subject in subjects(config) for other in taken)


async def _only_one_that_takes(client: NatsClient, config: PublisherConfig) -> str | None:
    names: set[str] = set()
    for subject in subjects(config):
        answer = await _ask(client, config, "STREAM.NAMES", {"subject": subject})
        names.update((answer or {}).get("streams") or [])
    if len(names) > 1:
        raise Interrupted(
            f"several streams take some of our subjects: {_listed(sorted(names))}",
            hint="All events have to go into one stream, to keep their order:"
            " give it all of the subjects, or name it with --stream.",
        )
    return names.pop() if names else None


async def _create(client: NatsClient, config: PublisherConfig, name: str) -> StreamInfo:
    wanted = {
        "name": name,
        "subjects": subjects(config),
        "num_replicas": config.stream_replicas,
    } | ({"allow_batched": True} if config.mode == "fast" else {})
    await _ask(client, config, f"STREAM.CREATE.{name}", wanted)
    created = await look_at(client, config, name)
    if created is None:
        raise Interrupted(f"the stream {name!r} was deleted right after it was created")
    log.info("stream created", extra={"stream": name, "subjects": _listed(created.subjects)})
    return created


async def _ask(
    client: NatsClient, config: PublisherConfig, subject: str, body: object
) -> dict[str, Any] | None:
    """Ask JetStream's API; return None where what is asked about doesn't exist."""
    prefix = f"$JS.{config.js_domain}.API" if config.js_domain else "$JS.API"
    request = client.request(f"{prefix}.{subject}", json.dumps(body).encode(), timeout=_TIMEOUT)
    try:
        message = await client.unless_failed(request)
    except nats.errors.NoRespondersError as error:
        raise _not_available(config) from error
    except nats.errors.TimeoutError as error:
        raise Interrupted(
            "JetStream doesn't answer", hint="Has its cluster lost too many servers?"
        ) from error
    except (OSError, nats.errors.Error) as error:
        raise Interrupted(f"the connection was lost: {words(error)}") from error
    answer: dict[str, Any] = json.loads(message.data)
    problem = answer.get("error")
    if problem is None:
        return answer
    if problem.get("err_code") == _NOT_FOUND:
        return None
    if problem.get("err_code") in _NOT_ENABLED:
        raise _not_available(config)
    raise Interrupted(
        f"JetStream refuses {subject}: {problem.get('description')}",
        hint=f"A relay needs one stream over {_listed(subjects(config))}; see docs/nats.md.",
    )


def _not_available(config: PublisherConfig) -> Interrupted:
    if config.js_domain:
        return Interrupted(
            f"there is no JetStream domain {config.js_domain!r} within reach of this NATS server",
            hint="Check --js-domain, and the server's connection to that domain.",
        )
    return Interrupted(
        "JetStream is not available on this NATS server",
        hint="Start nats-server with --jetstream, and enable it for the account; or do without,"
        " with --no-jetstream.",
    )


def _listed(parts: list[str]) -> str:
    return ", ".join(parts) or "no subjects"
