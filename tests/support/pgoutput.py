"""Changes of one table as PostgreSQL's logical replication publishes them (protocol 1).

See "Logical Replication Message Formats" in PostgreSQL's documentation.
"""

from __future__ import annotations

from collections.abc import Iterable

Row = dict[str, str | None]


def changes(messages: Iterable[bytes]) -> list[tuple[str, Row, Row]]:
    """Return action, new row and old row of each change; {} where there is none."""
    names: list[str] = []
    found: list[tuple[str, Row, Row]] = []
    for message in messages:
        kind = message[:1]
        if kind == b"R":
            names = _names(message)
        elif kind in (b"I", b"U", b"D"):
            rows = _rows(message[5:], names)
            action = {b"I": "INSERT", b"U": "UPDATE", b"D": "DELETE"}[kind]
            found.append((action, rows.get("N", {}), rows.get("O", rows.get("K", {}))))
    return found


def _names(message: bytes) -> list[str]:
    _, _, rest = message[5:].split(b"\0", 2)
    count, rest = int.from_bytes(rest[1:3], "big"), rest[3:]
    names = []
    for _ in range(count):
        name, _, rest = rest[1:].partition(b"\0")
        names.append(name.decode())
        rest = rest[8:]  # type and modifier
    return names


def _rows(data: bytes, names: list[str]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    while data:
        kind, data = data[:1].decode(), data[3:]
        row: Row = {}
        for name in names:
            form, data = data[:1], data[1:]
            if form == b"t":
                size = int.from_bytes(data[:4], "big")
                row[name], data = data[4 : 4 + size].decode(), data[4 + size :]
            else:
                row[name] = None
        rows[kind] = row
    return rows
