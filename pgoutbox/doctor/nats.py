"""The checks of NATS: of what it tells to the relay's user, without publishing anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pgoutbox.config.settings import Config
from pgoutbox.database.status.problems import age
from pgoutbox.database.status.text import size_of
from pgoutbox.doctor.finding import Finding, Level
from pgoutbox.doctor.postgresql import CheckedTable
from pgoutbox.errors import PublishError
from pgoutbox.nats import inspection
from pgoutbox.nats.inspection import Inspection
from pgoutbox.subjects import Naming, Subjects, token

_OLDEST = (2, 10)
_SKEW = 5.0  # seconds
_NEARLY_FULL = 0.8
_SHORT_WINDOW = 30.0  # seconds
_ENVELOPE = 1024  # bytes that names, times and headers may take beside the rows


def finding(check: str, level: Level, said: str, remedy: str | None = None) -> Finding:
    """Return a finding about NATS."""
    return Finding("NATS", check, level, said, remedy)


async def examine(config: Config, database: str, tables: Sequence[CheckedTable]) -> list[Finding]:
    """Do all checks, as far as a server can be reached; ``tables`` are to be published."""
    try:
        found = await inspection.inspect(config.nats, config.stream, config.messages)
    except PublishError as error:
        return [finding("connection", "attention", str(error), error.hint)]
    subjects = {str(table): _subject_of(config, database, table) for table in tables}
    return [
        *_server(found),
        *(_jetstream(config, found, subjects) if config.stream.jetstream else _core()),
        *_permissions(found, subjects),
        *_payloads(found, tables),
    ]


def _subject_of(config: Config, database: str, table: CheckedTable) -> str:
    """Return the subject of a table's inserts, with a key that stands for any."""
    messages = config.messages
    naming = Naming(messages.topic, messages.topic_prefix, messages.topics_map, database)
    return Subjects(naming, messages.subject).of(table.schema, table.name, "INSERT", ["1"])


def _server(found: Inspection) -> Iterator[Finding]:
    tls = "with TLS" if found.has_tls else "without TLS"
    yield finding("connection", "ok", f"{found.server}, {tls}")
    version = ".".join(map(str, found.version))
    if found.version >= _OLDEST:
        yield finding("version", "ok", f"nats-server {version}")
    else:
        remedy = "upgrade to 2.10 or later"
        yield finding("version", "attention", f"nats-server {version} is too old", remedy)


def _core() -> Iterator[Finding]:
    said = "not used: subscribers that are offline miss messages"
    yield finding("jetstream", "note", said, "leave out --no-jetstream to store them")


def _jetstream(config: Config, found: Inspection, subjects: dict[str, str]) -> Iterator[Finding]:
    if found.problem is not None:
        yield finding("stream", "attention", str(found.problem), found.problem.hint)
        return
    yield from _account(found.account)
    if found.stream is None:
        name = config.stream.name or config.messages.topic
        yield finding(
            "stream", "note", f"there is none yet; the relay will create {name!r} with its subjects"
        )
        return
    settings, state = found.stream["config"], found.stream.get("state") or {}
    yield from _stream(settings)
    yield from _uncovered(found, settings["name"], subjects)
    yield from _limits(settings, state)
    yield from _durability(settings)
    if found.skew < _SKEW:
        yield finding("clock", "ok", "the server's agrees with ours")
    else:
        said = f"the server's is {age(found.skew)} off ours"
        yield finding("clock", "attention", said, "have both synchronized")


def _account(account: dict[str, Any] | None) -> Iterator[Finding]:
    if account is None:
        yield finding("account", "note", "its limits can't be seen: $JS.API.INFO isn't allowed")
        return
    limit = (account.get("limits") or {}).get("max_storage", -1)
    used = account.get("storage", 0)
    if limit <= 0:
        yield finding("account", "ok", f"{size_of(used)} stored, without a limit of its own")
        return
    is_full = used >= _NEARLY_FULL * limit
    yield finding(
        "account",
        "attention" if is_full else "ok",
        f"{size_of(used)} of {size_of(limit)} stored",
        "raise the account's limit, or that of its streams" if is_full else None,
    )


def _stream(settings: dict[str, Any]) -> Iterator[Finding]:
    name = settings["name"]
    subjects = ", ".join(settings.get("subjects") or []) or "no subjects"
    yield finding("stream", "ok", f"{name}: {subjects}")
    for key, why in (("sealed", "is sealed"), ("mirror", "is a mirror")):
        if settings.get(key):
            remedy = "name another with --stream"
            yield finding("stream", "attention", f"{name} {why}: it takes no messages", remedy)
    if settings.get("retention") == "interest":
        said = "messages that no consumer waits for aren't kept (retention interest)"
        yield finding("retention", "note", said, "make the consumers before the relay starts")


def _uncovered(found: Inspection, name: str, subjects: dict[str, str]) -> Iterator[Finding]:
    left = {table: subject for table, subject in subjects.items() if not found.takes(subject)}
    for table, subject in left.items():
        remedy = f"add it: nats stream edit {name} --subjects …"
        said = f"{name} doesn't take {subject}, on which {table} is published"
        yield finding("subjects", "attention", said, remedy)
    if subjects and not left:
        yield finding("subjects", "ok", f"those of {_count(subjects)} are stored")


def _count(subjects: dict[str, str]) -> str:
    return "1 table" if len(subjects) == 1 else f"{len(subjects)} tables"


def _limits(settings: dict[str, Any], state: dict[str, Any]) -> Iterator[Finding]:
    limits = {
        "bytes": (settings.get("max_bytes", -1), state.get("bytes", 0)),
        "messages": (settings.get("max_msgs", -1), state.get("messages", 0)),
    }
    set_ones = {what: pair for what, pair in limits.items() if pair[0] > 0}
    fullest = max((used / limit for limit, used in set_ones.values()), default=0.0)
    what = " and ".join(f"{limit:,} {unit}" for unit, (limit, _) in set_ones.items())
    if settings.get("discard") == "new" and set_ones:
        is_full = fullest >= _NEARLY_FULL
        yield finding(
            "limits",
            "attention" if is_full else "note",
            f"{fullest:.0%} of {what}; once that is full, publishing stops (discard new)",
            "raise the limit, or have consumers catch up" if is_full else None,
        )
    elif set_ones or settings.get("max_age"):
        days = (settings.get("max_age") or 0) / 1e9
        kept = " or ".join(filter(None, (what, f"{age(days)}" if days else "")))
        said = f"old messages leave after {kept} (discard old)"
        yield finding("limits", "note", said, "a consumer that is away for longer misses them")
    else:
        yield finding("limits", "ok", "none")
    if (most := settings.get("max_msgs_per_subject", -1)) > 0:
        said = f"only the last {most} of each subject are kept"
        yield finding("limits", "note", said, "fine for a stream of states, not for one of events")
    window = (settings.get("duplicate_window") or 0) / 1e9
    is_short = window < _SHORT_WINDOW
    yield finding(
        "duplicates",
        "attention" if is_short else "ok",
        f"repeats are dropped within {age(window)}",
        "raise duplicate_window to two minutes or more" if is_short else None,
    )


def _durability(settings: dict[str, Any]) -> Iterator[Finding]:
    replicas = settings.get("num_replicas") or 1
    if settings.get("storage") == "memory":
        said = "messages are in memory, and gone with the server"
        yield finding("storage", "attention", said, "make the stream anew with storage file")
        return
    if replicas == 1:
        yield finding(
            "replicas",
            "note",
            "one: a power cut takes what wasn't synced, of up to sync_interval (2 minutes unless"
            " nats-server sets it)",
            "three replicas, or sync_interval: always; docs/nats.md has the details",
        )
        return
    yield finding("replicas", "ok", f"{replicas}")
    if not (settings.get("allow_batched") or settings.get("allow_atomic")):
        said = "messages are published one at a time, to keep their order"
        remedy = "set allow_batched on the stream (nats-server 2.14)"
        yield finding("batches", "note", said, remedy)


def _permissions(found: Inspection, subjects: dict[str, str]) -> Iterator[Finding]:
    if found.permissions is None:
        yield finding("permissions", "note", "can't be seen: $SYS.REQ.USER.INFO isn't answered")
        return
    prefix = f"$JS.{found.domain}.API" if found.domain else "$JS.API"
    wanted = {subject: f"publish what {table} is about" for table, subject in subjects.items()}
    if found.stream is not None:
        wanted[f"{prefix}.STREAM.INFO.{found.stream['config']['name']}"] = "find the stream"
    missing = {name: why for name, why in wanted.items() if not found.may("publish", name)}
    for name, why in missing.items():
        remedy = "allow it for the user; docs/nats.md lists what a relay needs"
        yield finding("permissions", "attention", f"may not publish to {name}, to {why}", remedy)
    inbox = f"{found.inbox_prefix}.{token('x')}"
    if not found.may("subscribe", f"{inbox}.{token('x')}"):
        remedy = "allow it, or give --inbox-prefix"
        said = f"may not subscribe below {found.inbox_prefix}, where answers go"
        yield finding("permissions", "attention", said, remedy)
    elif not missing:
        yield finding("permissions", "ok", "they suffice")


def _payloads(found: Inspection, tables: Sequence[CheckedTable]) -> Iterator[Finding]:
    """Compare the largest messages with the limits; an UPDATE has its row twice, old and new."""
    own = ((found.stream or {}).get("config") or {}).get("max_msg_size", -1)
    limit = min(found.max_payload, own) if own > 0 else found.max_payload
    too_large = [
        (table, 2 * table.largest + _ENVELOPE)
        for table in tables
        if table.largest and 2 * table.largest + _ENVELOPE > limit
    ]
    for table, size in too_large:
        yield finding(
            "message size",
            "attention",
            f"an UPDATE of {table} may take {size_of(size)}, and the limit is {size_of(limit)}",
            "raise max_payload of nats-server (and max_msg_size of the stream), or capture with"
            " --old-values identity; else such events are parked",
        )
    if not too_large:
        yield finding("message size", "ok", f"up to {size_of(limit)}; sampled rows fit")
