"""Tables by a name with wildcards: ``tenant_*.orders``, ``billing.*``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# A quoted part, or what stands between dots; a wildcard counts outside of double quotes.
_PART = re.compile(r'((?:"(?:[^"]|"")+"|[^".\s])+)(\.|$)')
_TOKEN = re.compile(r'"((?:[^"]|"")+)"|(.)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern as it was given, and its parts as LIKE has them.

    Without a schema it means what the context says: tables that the search_path finds, or those of
    every schema.
    """

    text: str
    schema: str | None
    table: str


def has_wildcards(name: str) -> bool:
    """Return True if there is a ``*`` or a ``?`` outside of double quotes."""
    return re.search(r"[*?]", re.sub(r'"(?:[^"]|"")*"', "", name)) is not None


def parse(text: str) -> Pattern:
    """Read a name as SQL does, but with wildcards.

    Raises:
        ValueError: it is neither a name nor a pattern.
    """
    parts = list(_parts(text.strip()))
    if len(parts) not in (1, 2):
        raise ValueError(f"{text!r} must be a table, or a schema, a dot and a table")
    return Pattern(text.strip(), parts[0] if len(parts) == 2 else None, parts[-1])


def of_schema(text: str) -> Pattern:
    """Return the pattern of all tables of a schema, whose name may have wildcards, too.

    Raises:
        ValueError: it is no name.
    """
    parts = list(_parts(text.strip()))
    if len(parts) != 1:
        raise ValueError(f"{text!r} must be a schema")
    return Pattern(f"{text.strip()}.*", parts[0], "%")


ALL_TABLES = Pattern("*.*", "%", "%")


def chosen(
    tables: Iterable[str], schemas: Iterable[str], *, everything: bool
) -> tuple[list[str], list[Pattern]]:
    """Return the names and the patterns that a command is given.

    Raises:
        ValueError: one of them can't be read.
    """
    names, patterns = [], [of_schema(schema) for schema in schemas]
    for table in tables:
        if has_wildcards(table):
            patterns.append(parse(table))
        else:
            names.append(table)
    return names, [*patterns, ALL_TABLES] if everything else patterns


def _parts(text: str) -> Iterator[str]:
    """Yield the parts between dots as LIKE has them."""
    end = 0
    while end < len(text):
        found = _PART.match(text, end)
        if found is None or (found[2] == "." and found.end() == len(text)):
            raise ValueError(f"{text!r} is no name of a table")
        yield "".join(_like(*token.groups()) for token in _TOKEN.finditer(found[1]))
        end = found.end()


def _like(quoted: str | None, char: str | None) -> str:
    if char in ("*", "?"):
        return {"*": "%", "?": "_"}[char]
    literal = quoted.replace('""', '"') if quoted is not None else _folded(char or "")
    return re.sub(r"([\\%_])", r"\\\1", literal)


def _folded(char: str) -> str:
    return char.lower() if char.isascii() else char
