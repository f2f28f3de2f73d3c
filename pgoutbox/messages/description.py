"""What messages look like, for machines: JSON Schema (2020-12) and AsyncAPI (3.0.0)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pgoutbox.names import ACTIONS, Column, DescribedTable
from pgoutbox.subjects import Naming, Origin, Placeholder, Template

JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"

Document = dict[str, Any]

# Types that aren't text in a message, by PostgreSQL's name; as docs/messages.md lists them.
_TYPES: Mapping[str, Document] = {
    "smallint": {"type": "integer", "minimum": -(2**15), "maximum": 2**15 - 1},
    "integer": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "bigint": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "boolean": {"type": "boolean"},
}
_JSONB = "jsonb"
_EMPTY: Document = {"type": "object", "maxProperties": 0}
_SENT = {"INSERT": "data", "UPDATE": "data", "DELETE": "dataOld"}  # which side has the row


def json_schema(tables: Sequence[DescribedTable]) -> Document:
    """Return the schema of the payloads of these tables, one of which each message fits."""
    names = _keys(tables)
    return {
        "$schema": JSON_SCHEMA,
        "title": "Row changes",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in names],
        "$defs": {name: _payload(table) for name, table in zip(names, tables, strict=True)},
    }


def asyncapi(tables: Sequence[DescribedTable], naming: Naming, template: str) -> Document:
    """Return an AsyncAPI document: a channel for each table, whose messages one may receive."""
    channels, operations, messages = {}, {}, {}
    for name, table in zip(_keys(tables), tables, strict=True):
        address, parameters = _address(table, naming, Template(template))
        channels[name] = {
            "address": address,
            "messages": {name: {"$ref": f"#/components/messages/{name}"}},
            **({"parameters": parameters} if parameters else {}),
        }
        operations[f"receive_{name}"] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": f"Changes of {table.schema}.{table.table}, in commit order.",
        }
        messages[name] = {
            "title": f"Change of {table.schema}.{table.table}",
            "contentType": "application/json",
            "headers": _HEADERS,
            "payload": {
                "schemaFormat": "application/schema+json;version=draft-07",
                "schema": _payload(table),
            },
        }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": f"Row changes of {naming.database}", "version": "1.0.0"},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }


_HEADERS: Document = {
    "type": "object",
    "properties": {
        "Nats-Msg-Id": {"type": "string", "description": "By which the stream drops repeats."}
    },
    "required": ["Nats-Msg-Id"],
}


def _keys(tables: Sequence[DescribedTable]) -> list[str]:
    """Return a key for each table, of letters that both formats allow in one."""
    keys: list[str] = []
    for table in tables:
        key = re.sub(r"[^A-Za-z0-9_-]", "_", f"{table.schema}_{table.table}")
        same = sum(re.fullmatch(rf"{key}(_\d+)?", one) is not None for one in keys)
        keys.append(f"{key}_{same + 1}" if same else key)
    return keys


def _name(table: DescribedTable) -> str:
    return f"{table.schema}.{table.table}"


def _payload(table: DescribedTable) -> Document:
    actions = [action for action in ACTIONS if action in table.actions]
    return {
        "title": f"Change of {_name(table)}",
        "type": "object",
        "required": ["id", "schema", "table", "action", "data", "dataOld", "commitTime"],
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "schema": {"const": table.schema},
            "table": {"const": table.table},
            "action": {"enum": actions},
            "data": {"type": "object"},
            "dataOld": {"type": "object"},
            "commitTime": {"type": "string", "format": "date-time"},
        },
        "oneOf": [_change(table, action) for action in actions],
    }


def _change(table: DescribedTable, action: str) -> Document:
    new = _row(table) if _SENT.get(action) == "data" else _EMPTY
    old = _EMPTY
    if action in ("UPDATE", "DELETE"):
        # Identity has the key alone where it has changed, and NULL in all other columns.
        full = table.old_values == "full"
        old = _row(table) if full else {"anyOf": [_EMPTY, _row(table, nullable=True)]}
    return {"properties": {"action": {"const": action}, "data": new, "dataOld": old}}


def _row(table: DescribedTable, *, nullable: bool = False) -> Document:
    return {
        "type": "object",
        "required": [column.name for column in table.columns],
        "properties": {
            column.name: _value(column, is_nullable=nullable or not column.is_not_null)
            for column in table.columns
        },
    }


def _value(column: Column, *, is_nullable: bool) -> Document:
    described: Document = {"description": column.type}
    if column.type == _JSONB:
        return described
    kind = _TYPES.get(column.type, {"type": "string"})
    return described | kind | ({"type": [kind["type"], "null"]} if is_nullable else {})


def _address(
    table: DescribedTable, naming: Naming, template: Template
) -> tuple[str, dict[str, Document]]:
    """Return the subject, with parameters for what depends on the event."""
    parts, parameters = [], {}
    for part in _parts(table, naming, template):
        if isinstance(part, str):
            parts.append(part)
            continue
        parts.append(f"{{{part.name}}}")
        parameters[part.name] = (
            {"description": "the row's key"} if part.needs_key else {"enum": list(table.actions)}
        )
    return "".join(parts), parameters


def _parts(
    table: DescribedTable, naming: Naming, template: Template
) -> Iterator[str | Placeholder]:
    origin = Origin(table.schema, table.table, "")
    for part in template.parts:
        if isinstance(part, str) or part.needs_key or part.name == "action":
            yield part
        else:
            yield part.value(naming, origin)
