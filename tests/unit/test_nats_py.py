"""The names of nats-py that are private, and that pgoutbox.nats.client uses all the same."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol import parser

from pgoutbox.errors import Interrupted
from pgoutbox.nats.client import NatsClient
from tests.support.commands import ROOT

FOLDER = ROOT / "pgoutbox" / "nats"

# By the class that has them; methods with the parameters that are passed, or overridden.
ATTRIBUTES = {
    Client: ["_transport", "_ps", "_server_info", "_reading_task", "_flush_queue"],
    TcpTransport: ["_io_reader", "_io_writer"],
    Subscription: ["_id"],
}
METHODS = {
    "_send_command": ["cmd"],
    "_flush_pending": [],
    "_send_ping": ["future"],
    "_process_msg": ["sid", "subject", "reply", "data", "headers"],
    "_process_info": ["info", "initial_connection"],
    "_process_err": ["err_msg"],
}


def instance_of(kind: type) -> Any:
    if kind is Subscription:
        return Subscription(Client())
    return kind()


@pytest.mark.parametrize("kind", ATTRIBUTES)
async def test_private_attributes_exist(kind: type) -> None:
    assert [name for name in ATTRIBUTES[kind] if not hasattr(instance_of(kind), name)] == []


@pytest.mark.parametrize("name", METHODS)
def test_private_methods_exist_with_their_parameters(name: str) -> None:
    method = getattr(Client, name)
    parameters = list(inspect.signature(method).parameters)
    assert inspect.iscoroutinefunction(method)
    assert parameters[1 : 1 + len(METHODS[name])] == METHODS[name]


async def test_parser_keeps_an_error_as_the_server_wrote_it() -> None:
    assert parser.ERR_RE.match(b"-ERR 'Permissions Violation for Publish to \"Orders\"'\r\n")
    assert isinstance(parser.Parser().buf, bytearray)


async def test_transport_of_ours_is_kept_by_the_client() -> None:
    """nats-py makes one of its own where ``_transport`` is false or None."""
    assert NatsClient()._transport


def test_no_other_private_names_are_used() -> None:
    listed = {*METHODS, *(name for names in ATTRIBUTES.values() for name in names)}
    assert _foreign_private_names(FOLDER / "client.py") == listed


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.name)
def test_private_names_are_used_in_one_file_only(file: Path) -> None:
    assert file.name == "client.py" or _foreign_private_names(file) == set()


def test_version_is_one_that_has_been_tried() -> None:
    """Another minor release may rename what is private: try it, then move the bound."""
    bound = re.search(r'"nats-py>=2\.16,<(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert bound is not None
    version = importlib.metadata.version("nats-py").split(".")
    assert (int(version[0]), int(version[1])) < (int(bound[1]), int(bound[2]))


def _foreign_private_names(file: Path) -> set[str]:
    """Return the private attributes that the file uses and doesn't define itself."""
    nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
    used = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        if not (isinstance(node.value, ast.Name) and node.value.id == "self")
        or file.name == "client.py"
    }
    ours = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    } | {
        target.id
        for node in nodes
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(target := statement.target, ast.Name)
    }
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    ours |= {node.name for node in nodes if isinstance(node, functions)}
    known = {name for names in ATTRIBUTES.values() for name in names} | set(METHODS)
    return {name for name in used if re.match("_[a-z]", name)} - (ours - known)


class Closed:
    """A stream's writer whose transport uvloop has closed."""

    def write(self, data: bytes) -> None:
        raise RuntimeError("the handler is closed")

    def writelines(self, data: list[bytes]) -> None:
        raise RuntimeError("the handler is closed")


async def test_write_to_a_closed_connection_is_an_interruption() -> None:
    """uvloop raises what neither nats-py nor a relay takes for a lost connection."""
    client = NatsClient()
    client._tcp._io_writer = Closed()  # type: ignore[assignment]

    with pytest.raises(Interrupted):
        client.write(b"PING\r\n")
    with pytest.raises(OSError, match="closed"):
        client._tcp.writelines([b"PING\r\n"])
