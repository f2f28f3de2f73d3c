"""Settings: what they are, their defaults, and where each is read from.

A flag comes before the environment, that before the configuration file, that before the
default. The file is wal-listener's, with pgoutbox's own settings under ``pgoutbox:``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pgoutbox.config import kinds
from pgoutbox.config.kinds import Wrong
from pgoutbox.config.settings import (
    DATABASE_PARTS,
    LIBPQ_VARIABLES,
    SETTINGS,
    Config,
    Setting,
    shard_suffix,
    their_variable,
    theirs,
)
from pgoutbox.errors import ConfigError, one_a_line
from pgoutbox.names import suggest
from pgoutbox.redact import redact
from pgoutbox.subjects import Naming, Template, is_subject

_PUBLISHER_TYPE = theirs("", "publisher.type", kinds.TEXT)

# Keys of wal-listener's file that mean nothing without a replication slot, and those for the other
# brokers that it knows; the ones with underscores stand in its example, where it doesn't read them.
_IGNORED_KEYS = (
    "listener.refreshConnection",
    "listener.heartbeatInterval",
    "listener.ackTimeout",
    "database.debug",
    "logger.caller",
    "publisher.messageKeyFrom",
    "publisher.exchangeKind",
    "publisher.pubSubProjectID",
    "publisher.enable_tls",
    "publisher.client_cert",
    "publisher.client_key",
    "publisher.ca_cert",
)
# What keys of wal-listener 1 have become.
_VERSION_1 = {
    "nats.address": "publisher.address",
    "nats.streamname": "publisher.topic",
    "nats.topicprefix": "publisher.topicPrefix",
    "database.filter.tables": "listener.filter.tables",
}
_MAPS = ("listener.topicsmap", "listener.filter.tables")  # their keys are the user's


def load(
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    file: Path | None = None,
) -> Config:
    """Return all settings; ConfigError names everything that is wrong with them at once.

    ``flags`` are by parameter name; None stands for a flag that wasn't given.
    """
    problems: list[str] = []
    document = _read_file(file, problems) if file else {}
    unknown = dict(_unknown_keys(document))
    problems += [said for key, said in unknown.items() if _is_refused(key)]
    problems += _flat_sections(document)
    problems += _other_publishers(environment, document)
    _put_into_maps(environment, document)
    replaced = [
        variable
        for variable, key in LIBPQ_VARIABLES.items()
        if environment.get(variable) and document.pop(key, None) is not None
    ]
    found: dict[str, Any] = {}
    warnings = [redact(said) for key, said in unknown.items() if not _is_refused(key)]
    warnings += _misspelt_variables(environment)
    for path, value in _read_all(flags, environment, document, problems, warnings):
        found.setdefault(path, value)
    if any(key.startswith("logger.") for key in document):
        found.setdefault("log_format", "json")  # wal-listener's default
    problems += _wrong_subjects(found)
    problems += _half_credentials(found)
    problems += _wrong_share(found)
    if problems:
        raise _config_error(problems)
    if shard := found.get("relay.shard"):
        name = found.get("relay.name", Config().relay.name)
        found["relay.name"] = f"{name}{shard_suffix(shard)}"
    if "database.dsn" in found:
        parts = [found.pop(part.path) for part in DATABASE_PARTS if part.path in found]
        if parts or replaced:
            replaced = ["the DSN"]
    if replaced:
        warnings.append(f"{', '.join(replaced)} comes before the database of the file")
    if found.get("database.enable_tls") is False:
        # wal-listener looks at sslMode only with enableTLS, and its example has both.
        found.pop("database.ssl_mode", None)
    warnings += _unknown_actions(document)
    notes = _notes(environment, document)
    return _build({**found, "notes": tuple(notes), "warnings": tuple(warnings)})


def _read_all(
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    document: Mapping[str, object],
    problems: list[str],
    warnings: list[str],
) -> Iterator[tuple[str, object]]:
    """Yield the path and the value of each setting that is given."""
    for setting in SETTINGS:
        for source, value in _given(setting, flags, environment, document):
            try:
                yield setting.path, setting.kind.read(value)
            except Wrong as wrong:
                # wal-listener takes any level and format of log lines for one that it has.
                is_overlooked = source.startswith(("logger.", "WAL_LOGGER_"))
                (warnings if is_overlooked else problems).append(f"{source} {wrong}")
            break


def _given(
    setting: Setting,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    document: Mapping[str, object],
) -> Iterator[tuple[str, object]]:
    """Yield where the setting is given and what as, the most important first.

    Nothing, or an empty text, in a variable or the file counts as not given.
    """
    if flags.get(setting.parameter) is not None:
        yield setting.flag or "", flags[setting.parameter]
    for variable in setting.variables:
        if environment.get(variable):
            yield variable, environment[variable]
    for key in setting.keys:
        if document.get(key.lower()) not in (None, ""):
            yield key, document[key.lower()]


def _put_into_maps(environment: Mapping[str, str], document: dict[str, object]) -> None:
    """Let variables such as WAL_LISTENER_FILTER_TABLES_USERS replace an entry of a map."""
    for path in _MAPS:
        stem = their_variable(path) + "_"
        for variable, value in environment.items():
            if not variable.startswith(stem) or not value:
                continue
            name = variable.removeprefix(stem).lower()
            entries = document.get(path) or {}
            if isinstance(entries, dict):
                others = {key: old for key, old in entries.items() if str(key).lower() != name}
                document[path] = {**others, name: value}


def _notes(environment: Mapping[str, str], document: Mapping[str, object]) -> Iterator[str]:
    given = [key for key in _IGNORED_KEYS if document.get(key.lower()) not in (None, "")]
    given += [name for key in _IGNORED_KEYS if environment.get(name := their_variable(key))]
    if given:
        yield f"without effect here: {', '.join(given)}"


def _unknown_actions(document: Mapping[str, object]) -> Iterator[str]:
    for unknown in kinds.unknown_actions(document.get("listener.filter.tables")):
        yield f"listener.filter.tables {unknown}"


def _wrong_subjects(found: Mapping[str, Any]) -> Iterator[str]:
    prefix = found.get("messages.topic_prefix", "")
    topics_map = found.get("messages.topics_map", {})
    for table, name in topics_map.items():
        if not is_subject(prefix + name):
            yield f"listener.topicsMap makes {prefix + name!r} of {table}, which is no subject"
    topic, stream = found.get("messages.topic"), found.get("stream.name")
    needs_stream = found.get("stream.jetstream", True) and not stream
    if topic and needs_stream and not kinds.is_stream_name(topic):
        yield f"the topic {topic!r} can't be a stream's name, too: name the stream with --stream"
    template = found.get("messages.subject")
    if template:
        naming = Naming(topic or Config().messages.topic, prefix, topics_map)
        for subject in Template(template).patterns(naming):
            if not is_subject(subject):
                yield f"--subject {template!r} makes {subject!r}, which has an empty part"


def _half_credentials(found: Mapping[str, Any]) -> Iterator[str]:
    ways = ("user", "token", "nkey", "creds")
    given = [f"--nats-{way}" for way in ways if found.get(f"nats.{way}")]
    if len(given) > 1:
        yield f"{' and '.join(given)} exclude each other"
    for one, other in (("user", "password"), ("client-cert", "client-key")):
        pair = [found.get(f"nats.{name.replace('-', '_')}") for name in (one, other)]
        if any(pair) and not all(pair):
            yield f"--nats-{one} and --nats-{other} need each other"


def _wrong_share(found: Mapping[str, Any]) -> Iterator[str]:
    flags = [flag for flag in ("tables", "except_tables") if found.get(f"relay.{flag}")]
    if len(flags) > 1:
        yield "--tables and --except-tables exclude each other"
    elif flags and "relay.name" not in found:
        flag = flags[0].replace("_", "-")
        yield f"--{flag} needs a --name of its own: relays of one name share one progress"


def _build(found: Mapping[str, object]) -> Config:
    sections: dict[str, dict[str, object]] = {}
    top: dict[str, Any] = {}
    for path, value in found.items():
        section, _, name = path.rpartition(".")
        if section:
            sections.setdefault(section, {})[name] = value
        else:
            top[name] = value
    defaults = Config()
    for entry in fields(Config):
        if entry.name in sections:
            top[entry.name] = type(getattr(defaults, entry.name))(**sections[entry.name])
    return Config(**top)


def _config_error(problems: Iterable[str]) -> ConfigError:
    return ConfigError(one_a_line(map(redact, problems), "settings are wrong"))


def _read_file(file: Path, problems: list[str]) -> dict[str, object]:
    """Return the file as dotted lower-case keys; the spelling of keys doesn't count."""
    import yaml  # slow to import, and most commands have no file

    class Loader(yaml.SafeLoader):
        """Takes 12:34:56, 0123, yes and 1e3 for the texts they are; settings know their kind."""

        yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
            first: [(tag, form) for tag, form in resolvers if tag.endswith((":null", ":merge"))]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    try:
        document = yaml.load(file.read_text("utf-8"), Loader)  # noqa: S506 - a safe one
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it isn't UTF-8"
        raise ConfigError(f"the configuration file {file} can't be read: {reason}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        # Not the parser's own text, which quotes the line: it may hold a password.
        raise ConfigError(f"the configuration file {file} is not YAML{where}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        problems.append(f"the configuration file {file} must hold keys and values")
        return {}
    return dict(_flatten(document))


def _flatten(document: Mapping[object, object], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in document.items():
        path = f"{above}{key}".lower()
        if isinstance(value, dict) and path not in _MAPS:
            yield from _flatten(value, f"{path}.")
        else:
            yield path, value


def _known_keys() -> dict[str, str]:
    keys = [key for setting in (*SETTINGS, _PUBLISHER_TYPE) for key in setting.keys]
    keys += _IGNORED_KEYS
    return {key.lower(): key for key in keys}


def _is_refused(key: str) -> bool:
    """Tell whether an unknown key is refused.

    wal-listener 2 overlooks keys that it doesn't know, so its set-ups may have some and work. A
    file of wal-listener 1 can't work.
    """
    return key.startswith(tuple(_VERSION_1)) or bool(suggest(key.partition(".")[0], ["pgoutbox"]))


def _unknown_keys(document: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield each key that there isn't, and a sentence that says so."""
    known = _known_keys()
    sections = {key.rpartition(".")[0] for key in known}
    for key, value in document.items():
        is_empty_section = value is None and key in sections
        if key not in known and not is_empty_section:
            yield key, f"the file has an unknown key {key}{_suggest_key(key, known)}"


def _flat_sections(document: Mapping[str, object]) -> Iterator[str]:
    sections = {key.partition(".")[0] for key in _known_keys()}
    for key, value in document.items():
        if key in sections and value is not None:
            yield f"{key} in the file must hold keys and values"


def _misspelt_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each variable that is almost one of ours; others may be anything's."""
    known = {variable for setting in (*SETTINGS, _PUBLISHER_TYPE) for variable in setting.variables}
    for variable in environment:
        if variable.startswith(("PGOUTBOX_", "WAL_")) and variable not in known:
            meant = difflib.get_close_matches(variable, known, n=1, cutoff=0.9)
            if meant:
                yield f"there is no variable {variable}; did you mean {meant[0]}?"


def _suggest_key(wrong: str, known: Mapping[str, str]) -> str:
    """Suggest a key that looks like it, or one that ends like it in another section."""
    for old, new in _VERSION_1.items():
        if wrong.startswith(old):
            return f"; since wal-listener 2 it is {new}"
    section, _, name = wrong.rpartition(".")
    in_section = {key.rpartition(".")[2]: key for key in known if key.startswith(f"{section}.")}
    elsewhere = [key for key in known if key.rpartition(".")[2] == name]
    close = suggest(name, in_section, {short: known[key] for short, key in in_section.items()})
    return close or suggest(wrong, elsewhere or known, known)


def _other_publishers(
    environment: Mapping[str, str], document: Mapping[str, object]
) -> Iterator[str]:
    for source, kind in _given(_PUBLISHER_TYPE, {}, environment, document):
        if str(kind).lower() != "nats":
            yield f"{source} {kind} isn't supported: pgoutbox publishes to nats only"
        break
