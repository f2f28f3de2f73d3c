"""Stand-ins for what the OpenFaaS example runs beside pgoutbox: the gateway, nats-connector.

Both do what the real ones (gateway 0.27, nats-connector 0.3.0) were seen to do.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.util
import io
import json
import queue
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.support.streams import nats_client

QUEUE_GROUP = "openfaas_nats_worker_group"
NAMESPACE = "openfaas-fn"
CREDENTIALS = "Basic " + base64.b64encode(b"admin:secret").decode()


@dataclass(frozen=True)
class Call:
    """A call of a function, and what came of it."""

    function: str
    headers: Mapping[str, str]
    body: bytes
    status: int
    printed: str
    response: str


@dataclass
class Event:
    """What the template python3-http passes to a function."""

    body: bytes
    headers: Mapping[str, str]
    method: str = "POST"
    query: Mapping[str, str] = field(default_factory=dict)
    path: str = "/"


class Function:
    """A function of a stack file, with its real handler."""

    def __init__(self, name: str, definition: Mapping[str, Any], folder: Path) -> None:
        self.name = name
        self.annotations: dict[str, str] = definition.get("annotations", {})
        file = folder / definition["handler"] / "handler.py"
        spec = importlib.util.spec_from_file_location("function.handler", file)
        assert spec is not None
        assert spec.loader is not None
        self._module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._module)

    def call(self, headers: Mapping[str, str], body: bytes) -> Call:
        """Run the handler as the template does: a failure is status 500."""
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                answer = self._module.handle(Event(body, headers), None)
        except Exception as error:
            answer = {"statusCode": 500, "body": repr(error)}
        return Call(
            self.name, headers, body, answer["statusCode"], printed.getvalue(), answer["body"]
        )


class Gateway(ThreadingHTTPServer):
    """OpenFaaS's gateway, as far as connectors use it."""

    daemon_threads = True

    def __init__(self, stack: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        functions = yaml.safe_load(stack.read_text())["functions"]
        self.functions = {name: Function(name, functions[name], stack.parent) for name in functions}
        self.calls: list[Call] = []
        self.deferred: queue.Queue[tuple[Function, Mapping[str, str], bytes] | None] = queue.Queue()
        self._one_at_a_time = threading.Lock()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def invoke(self, function: Function, headers: Mapping[str, str], body: bytes) -> Call:
        """Call a function, and note it."""
        with self._one_at_a_time:  # what a function prints is caught for the whole process
            call = function.call(headers, body)
            self.calls.append(call)
        return call

    def work_off(self) -> None:
        """Make the calls of /async-function, as the queue-worker does."""
        while (deferred := self.deferred.get()) is not None:
            self.invoke(*deferred)


class _Handler(BaseHTTPRequestHandler):
    server: Gateway
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != CREDENTIALS:
            return self._answer(401, "")
        match urlsplit(self.path).path:
            case "/system/namespaces":
                return self._answer(200, json.dumps([NAMESPACE]))
            case "/system/functions":
                listed = [
                    {"name": f.name, "namespace": NAMESPACE, "annotations": f.annotations}
                    for f in self.server.functions.values()
                ]
                return self._answer(200, json.dumps(listed))
        return self._answer(404, "")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        _, way, name = self.path.split("/", 2)
        function = self.server.functions.get(name.removesuffix(f".{NAMESPACE}"))
        if function is None or way not in ("function", "async-function"):
            return self._answer(404, "")
        headers = dict(self.headers.items())
        if way == "async-function":
            self.server.deferred.put((function, headers, body))
            return self._answer(202, "")
        call = self.server.invoke(function, headers, body)
        return self._answer(call.status, call.response)

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def serve(stack: Path) -> Iterator[Gateway]:
    """Run a gateway with the functions of a stack file."""
    with Gateway(stack) as gateway:
        threads = [
            threading.Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.02}),
            threading.Thread(target=gateway.work_off),
        ]
        for thread in threads:
            thread.start()
        try:
            yield gateway
        finally:
            gateway.shutdown()
            gateway.deferred.put(None)
            for thread in threads:
                thread.join()


class Connector:
    """nats-connector, configured by the variables of the real one."""

    def __init__(self, variables: Mapping[str, str], client: Client) -> None:
        self._gateway_url = variables["gateway_url"]
        is_async = variables.get("asynchronous_invocation", "true") == "true"
        self._way = "async-function" if is_async else "function"
        self._topics = [topic for topic in variables["topics"].split(",") if topic]
        self._rebuild_interval = float(variables.get("rebuild_interval", "5s").removesuffix("s"))
        self._client = client
        self.functions: dict[str, list[str]] = {}  # by topic
        self.seen = 0  # messages

    async def subscribe(self) -> None:
        """Look the functions up, then take part in each topic's queue group."""
        await self._rebuild()
        for topic in self._topics:
            await self._client.subscribe(topic, QUEUE_GROUP, cb=self._on_message)
        await self._client.flush()

    async def keep_rebuilding(self) -> None:
        """Look for functions that are deployed later."""
        while True:
            await asyncio.sleep(self._rebuild_interval)
            await self._rebuild()

    async def _rebuild(self) -> None:
        functions: dict[str, list[str]] = {}
        for namespace in json.loads(await self._get("/system/namespaces")):
            found = json.loads(await self._get(f"/system/functions?namespace={namespace}"))
            for function in found:
                for topic in (function["annotations"] or {}).get("topic", "").split(","):
                    path = f"{function['name']}.{namespace}"
                    functions.setdefault(topic.strip(), []).append(path)
        self.functions = functions

    async def _on_message(self, message: Msg) -> None:
        # The subject must be an annotation's, letter by letter.
        for function in self.functions.get(message.subject, []):
            headers = {"X-Connector": "connector-sdk", "X-Topic": message.subject}
            await self._request(f"/{self._way}/{function}", message.data, headers)
        self.seen += 1

    async def _get(self, path: str) -> bytes:
        return await self._request(path, None, {"Authorization": CREDENTIALS})

    async def _request(self, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        return await asyncio.to_thread(self._send, path, body, headers)

    def _send(self, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        """Send a request, and return the answer's body; what a function answers doesn't count."""
        with closing(HTTPConnection(urlsplit(self._gateway_url).netloc, timeout=60)) as connection:
            connection.request("GET" if body is None else "POST", path, body, headers)
            return connection.getresponse().read()


@asynccontextmanager
async def connector(variables: Mapping[str, str], nats_url: str) -> AsyncIterator[Connector]:
    """Run the stand-in for nats-connector."""
    async with nats_client(nats_url) as client:
        running = Connector(variables, client)
        await running.subscribe()
        rebuilding = asyncio.create_task(running.keep_rebuilding())
        try:
            yield running
        finally:
            rebuilding.cancel()
            await asyncio.wait({rebuilding})
