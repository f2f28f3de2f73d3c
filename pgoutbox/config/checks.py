"""What is wrong with settings that go together, each being right by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pgoutbox.config.settings import DEFAULTS
from pgoutbox.config.values import is_bucket_name, is_stream_name
from pgoutbox.subjects import RESERVED, Naming, Template, is_reserved, is_subject


def problems(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each; ``found`` has what was set, by its path in Config."""
    yield from _subjects(found)
    yield from _credentials(found)
    yield from _share(found)
    yield from _bucket(found)


def _subjects(found: Mapping[str, Any]) -> Iterator[str]:
    prefix = found.get("messages.topic_prefix", "")
    topics_map = found.get("messages.topics_map", {})
    for table, name in topics_map.items():
        if not is_subject(prefix + name):
            yield f"listener.topicsMap makes {prefix + name!r} of {table}, which is no subject"
    topic, stream = found.get("messages.topic"), found.get("stream.name")
    needs_name = found.get("stream.jetstream", True) and not stream
    if topic and needs_name and not is_stream_name(topic):
        yield f"the topic {topic!r} can't be the stream's name as well: name one with --stream"
    template = found.get("messages.subject")
    if template:
        naming = Naming(topic or DEFAULTS.messages.topic, prefix, topics_map)
        for subject in Template(template).patterns(naming):
            if not is_subject(subject):
                yield f"--subject {template!r} makes {subject!r}, which has an empty part"
            elif is_reserved(subject):
                yield f"--subject {template!r} makes {subject!r}: {RESERVED}"


def _credentials(found: Mapping[str, Any]) -> Iterator[str]:
    methods = ("user", "token", "nkey", "creds")
    given = [f"--nats-{method}" for method in methods if found.get(f"nats.{method}")]
    if len(given) > 1:
        yield f"{' and '.join(given)} exclude each other"
    for one, other in (("user", "password"), ("client-cert", "client-key")):
        pair = [found.get(f"nats.{name.replace('-', '_')}") for name in (one, other)]
        if any(pair) and not all(pair):
            yield f"--nats-{one} and --nats-{other} need each other"


def _share(found: Mapping[str, Any]) -> Iterator[str]:
    if found.get("relay.begin_after") and found.get("relay.begin_at"):
        yield "--begin-after and --begin-at exclude each other"
    flags = [flag for flag in ("kv", "tables", "except_tables") if found.get(f"relay.{flag}")]
    if len(flags) > 1:
        names = [f"--{flag.replace('_', '-')}" for flag in flags]
        yield f"{' and '.join(names)} exclude each other"
    elif flags and "relay.name" not in found:
        flag = flags[0].replace("_", "-")
        yield f"--{flag} needs a --name of its own: relays of one name share their progress"


def bucket_of(found: Mapping[str, Any]) -> str:
    """Return the name of the bucket that a relay fills; empty where it fills none."""
    table = found.get("relay.kv")
    return found.get("relay.kv_bucket") or f"{table.schema}_{table.table}" if table else ""


def _bucket(found: Mapping[str, Any]) -> Iterator[str]:
    table = found.get("relay.kv")
    if table is None:
        if found.get("relay.kv_bucket"):
            yield "--kv-bucket needs --kv, which names the table"
        return
    if not is_bucket_name(bucket_of(found)):
        yield f"--kv {table} makes no name for a bucket: give it one with --kv-bucket"
    if found.get("relay.shard"):
        yield "--kv and --shard exclude each other: one relay fills a bucket"
    if not found.get("stream.jetstream", True):
        yield "--kv and --no-jetstream exclude each other: a bucket is a stream"
