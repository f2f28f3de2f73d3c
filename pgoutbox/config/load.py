"""Reading the settings from flags, environment and file.

Flags override environment variables, which override the file, which overrides the defaults. The
file is wal-listener's, with pgoutbox's own settings under ``pgoutbox:``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from pgoutbox.config import checks, values, wal_listener
from pgoutbox.config.declare import Setting
from pgoutbox.config.file import read_file
from pgoutbox.config.settings import (
    DATABASE_PARTS,
    DEFAULTS,
    SETTINGS,
    Config,
    shard_suffix,
)
from pgoutbox.config.values import InvalidValue
from pgoutbox.errors import ConfigError, one_a_line
from pgoutbox.names import suggest
from pgoutbox.redact import redact
from pgoutbox.subjects import bucket_stream

# The driver reads these itself; as part of the environment they override the file.
_LIBPQ_VARIABLES = {
    "PGHOST": "database.host",
    "PGPORT": "database.port",
    "PGDATABASE": "database.name",
    "PGUSER": "database.user",
    "PGPASSWORD": "database.password",
    "PGSSLMODE": "database.sslmode",
}
# Those of libpq's that say which database it is.
_NAMING_VARIABLES = ("PGSERVICE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE")


class Sources(NamedTuple):
    """Where settings are read from."""

    flags: Mapping[str, object]  # by parameter; None stands for a flag that wasn't given
    environment: Mapping[str, str]
    document: dict[str, object]  # the file, by dotted keys in lower case


def load(
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    file: Path | None = None,
) -> Config:
    """Return all settings.

    Raises:
        ConfigError: with everything that is wrong with them.
    """
    problems: list[str] = []
    sources = Sources(flags, environment, read_file(file, problems) if file else {})
    unknown = dict(_unknown_keys(sources.document))
    problems += [sentence for key, sentence in unknown.items() if _is_refused(key)]
    problems += _values_in_place_of_sections(sources.document)
    problems += wal_listener.other_publishers(environment, sources.document)
    wal_listener.put_into_maps(environment, sources.document)
    overridden = _override_by_libpq(sources)
    warnings = [redact(sentence) for key, sentence in unknown.items() if not _is_refused(key)]
    warnings += _misspelt_variables(environment)
    found = _parse(sources, problems, warnings)
    problems += checks.problems(found)
    if problems:
        raise ConfigError(one_a_line(map(redact, problems), "settings are wrong"))
    warnings += _settle_database(found, overridden)
    _settle_source(found, environment)
    _settle_names(found, sources.document)
    if bucket := checks.bucket_of(found):
        found |= {
            "messages.bucket": bucket,
            "messages.subject": f"$KV.{bucket}.{{key}}",
            "stream.name": bucket_stream(bucket),
        }
    warnings += _about_the_filter(sources.document)
    notes = wal_listener.notes(environment, sources.document)
    return _build({**found, "notes": tuple(notes), "warnings": tuple(warnings)})


def _override_by_libpq(sources: Sources) -> list[str]:
    """Drop what libpq's variables override; return the variables that do."""
    return [
        variable
        for variable, key in _LIBPQ_VARIABLES.items()
        if sources.environment.get(variable) and sources.document.pop(key, None) is not None
    ]


def _parse(sources: Sources, problems: list[str], warnings: list[str]) -> dict[str, Any]:
    """Return the value of each setting that is given, by its path in Config."""
    given: dict[str, list[_Given]] = {}
    for setting in SETTINGS:
        for each in _given(setting, sources):
            given.setdefault(setting.path, []).append(each)
    found: dict[str, Any] = {}
    for path, candidates in given.items():
        chosen = min(candidates, key=lambda each: each.rank)
        problems += _double(chosen, candidates)
        if path == "database.dsn":
            found["database.source"] = chosen.source
        try:
            found[path] = chosen.setting.type.parse(chosen.value)
        except InvalidValue as error:
            is_lenient = wal_listener.is_lenient(chosen.source)
            (warnings if is_lenient else problems).append(f"{chosen.source} {error}")
    return found


class _Given(NamedTuple):
    rank: tuple[int, int]  # the lowest counts; of equal ones, the first
    source: str  # a flag, a variable or a key
    value: object
    setting: Setting


def _double(chosen: _Given, candidates: Iterable[_Given]) -> Iterator[str]:
    """Yield a sentence if a value and a file with it are given in the same place."""
    for other in candidates:
        if other.rank == chosen.rank and other.setting.flag not in (None, chosen.setting.flag):
            yield f"{chosen.source} and {other.source} exclude each other"


def _given(setting: Setting, sources: Sources) -> Iterator[_Given]:
    """Yield what the setting is set to.

    An empty value or text in a variable or the file counts as not set.
    """
    if sources.flags.get(setting.parameter) is not None:
        value = sources.flags[setting.parameter]
        yield _Given((0, 0), setting.flag or "", value, setting)
    for index, variable in enumerate(setting.variables):
        if text := sources.environment.get(variable):
            yield _Given((1, index), variable, text, setting)
    for index, key in enumerate(setting.keys):
        value = sources.document.get(key.lower())
        if value not in (None, ""):
            yield _Given((2, index), key, value, setting)
    if setting.fallback and (text := sources.environment.get(setting.fallback)):
        yield _Given((3, 0), setting.fallback, text, setting)


def _settle_database(found: dict[str, Any], overridden: list[str]) -> Iterator[str]:
    """Leave one way to name the database; yield a sentence about what the file has in vain."""
    if "database.dsn" in found:
        parts = [found.pop(path) for path in DATABASE_PARTS if path in found]
        if parts or overridden:
            overridden = ["the DSN"]
    if overridden:
        yield f"{', '.join(overridden)} overrides the database in the file"
    if found.get("database.enable_tls") is False:
        # wal-listener looks at sslMode only with enableTLS, and its example has both.
        found.pop("database.ssl_mode", None)


def _settle_source(found: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Say where the database was chosen, if no DSN says that."""
    if "database.dsn" in found:
        return
    sources = [name for name in _NAMING_VARIABLES if environment.get(name)]
    if any(path in found for path in DATABASE_PARTS):
        sources.append("the configuration file")
    if sources:
        found["database.source"] = " and ".join(sources)


def _settle_names(found: dict[str, Any], document: Mapping[str, object]) -> None:
    if any(key.startswith("logger.") for key in document):
        found.setdefault("log.format", "json")  # wal-listener's default
    if shard := found.get("relay.shard"):
        name = found.get("relay.name", DEFAULTS.relay.name)
        found["relay.name"] = f"{name}{shard_suffix(shard)}"


def _about_the_filter(document: Mapping[str, object]) -> Iterator[str]:
    tables = document.get("listener.filter.tables")
    for sentence in (*values.unknown_actions(tables), *values.qualified_names(tables)):
        yield f"listener.filter.tables {sentence}"


def _build(found: Mapping[str, object]) -> Config:
    sections: dict[str, dict[str, object]] = {}
    top: dict[str, Any] = {}
    for path, value in found.items():
        section, _, name = path.rpartition(".")
        if section:
            sections.setdefault(section, {})[name] = value
        else:
            top[name] = value
    for entry in fields(Config):
        if entry.name in sections:
            top[entry.name] = type(getattr(DEFAULTS, entry.name))(**sections[entry.name])
    return Config(**top)


def _known_keys() -> dict[str, str]:
    keys = [key for setting in SETTINGS for key in setting.keys]
    keys += [*wal_listener.IGNORED_KEYS, wal_listener.PUBLISHER_TYPE]
    return {key.lower(): key for key in keys}


def _is_refused(key: str) -> bool:
    """Return True if an unknown key is an error, not a warning.

    wal-listener 2 overlooks keys that it doesn't know, so working set-ups may have some. A file
    of wal-listener 1 can't work.
    """
    is_almost_ours = bool(suggest(key.partition(".")[0], ["pgoutbox"]))
    return is_almost_ours or key.startswith(tuple(wal_listener.VERSION_1_KEYS))


def _unknown_keys(document: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield each unknown key, and a sentence about it."""
    known = _known_keys()
    sections = {key.rpartition(".")[0] for key in known}
    for key, value in document.items():
        is_empty_section = value is None and key in sections
        if key not in known and not is_empty_section:
            yield key, f"the file has an unknown key {key}{_suggest_key(key, known)}"


def _values_in_place_of_sections(document: Mapping[str, object]) -> Iterator[str]:
    sections = {key.partition(".")[0] for key in _known_keys()}
    for key, value in document.items():
        if key in sections and value is not None:
            yield f"{key} in the file must hold keys and values"


def _misspelt_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each variable that is almost one of ours; others may be anyone's."""
    known = {variable for setting in SETTINGS for variable in setting.variables}
    known.add(wal_listener.variable(wal_listener.PUBLISHER_TYPE))
    for variable in environment:
        if variable.startswith(("PGOUTBOX_", "WAL_")) and variable not in known:
            meant = difflib.get_close_matches(variable, known, n=1, cutoff=0.9)
            if meant:
                yield f"there is no variable {variable}; did you mean {meant[0]}?"


def _suggest_key(wrong: str, known: Mapping[str, str]) -> str:
    """Suggest a similar key of the same section, or one of the same name in another."""
    for old, new in wal_listener.VERSION_1_KEYS.items():
        if wrong.startswith(old):
            return f"; since wal-listener 2 it is {new}"
    section, _, name = wrong.rpartition(".")
    in_section = {key.rpartition(".")[2]: key for key in known if key.startswith(f"{section}.")}
    elsewhere = [key for key in known if key.rpartition(".")[2] == name]
    close = suggest(name, in_section, {short: known[key] for short, key in in_section.items()})
    return close or suggest(wrong, elsewhere or known, known)
