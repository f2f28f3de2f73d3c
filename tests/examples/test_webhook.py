"""The webhook's forwarder: each event arrives, in order, whatever the other side does."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from tests.examples import openfaas
from tests.examples.conftest import EXAMPLES, StartProgram, Users
from tests.support.commands import Daemon
from tests.support.waiting import eventually

FORWARD = EXAMPLES / "webhook" / "forward.py"


@dataclass(frozen=True)
class Request:
    """A POST, and what it was answered."""

    headers: dict[str, str]
    body: bytes
    status: int


class Webhook(ThreadingHTTPServer):
    """Answers POSTs with the statuses that a test gives, then with 200; 0 hangs up."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses: list[int] = []
        self.requests: list[Request] = []

    @property
    def url(self) -> str:
        """What is to be called."""
        return f"http://127.0.0.1:{self.server_port}/hook"

    @property
    def taken(self) -> list[bytes]:
        """The bodies that it took."""
        return [request.body for request in self.requests if request.status == 200]


class _Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.server.requests.append(Request(dict(self.headers.items()), body, status))
        if status:
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/")
            self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as webhook:
        thread = threading.Thread(target=webhook.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield webhook
        webhook.shutdown()
        thread.join()


async def forward(program: StartProgram, users: Users, url: str, *more: str) -> Daemon:
    where = ("--nats", users.stream.url, "--stream", users.stream.topic)
    env = {"WEBHOOK_AUTHORIZATION": "Bearer secret"}
    return await program(FORWARD, url, *where, *more, "--delays", "0.05", "0.1", env=env)


async def test_nothing_overtakes_what_is_tried_again(
    users: Users, program: StartProgram, webhook: Webhook
) -> None:
    webhook.statuses = [200, 503, 0, 429, 500]
    await users.relay()
    await users.write("insert into users (name) select 'user ' || n from generate_series(1, 5) n")
    events = await users.events(5)

    forwarder = await forward(program, users, webhook.url)
    await eventually(lambda: len(webhook.taken) == 5)

    assert webhook.taken == events
    assert [request.status for request in webhook.requests] == [200, 503, 0, 429, 500, *[200] * 4]
    keys = [request.headers["Idempotency-Key"] for request in webhook.requests]
    assert keys == [json.loads(request.body)["id"] for request in webhook.requests]
    for request in webhook.requests:
        assert request.headers["Authorization"] == "Bearer secret"
        assert request.headers["X-Topic"] == f"{users.stream.topic}.public_users"
    await forwarder.line("2 " + users.stream.topic + ".public_users attempt 2: no answer")
    assert "secret" not in forwarder.output


async def test_refused_event_is_given_up_and_the_next_goes_on(
    users: Users, program: StartProgram, webhook: Webhook
) -> None:
    webhook.statuses = [422, 302, 422]
    await users.relay()
    await users.write("insert into users (name) values ('refused'), ('taken')")
    _, taken = await users.events(2)
    await users.publish(b"no event")

    forwarder = await forward(program, users, webhook.url)
    await forwarder.line(f"1 given up; see: nats stream get {users.stream.topic} 1")
    await forwarder.line(f"3 {users.stream.topic}.public_users is no event")

    assert webhook.taken == [taken]
    assert len(webhook.requests) == 4


async def test_subject_in_any_script_arrives(
    users: Users, program: StartProgram, webhook: Webhook
) -> None:
    await users.relay()
    await users.write('alter table users rename to "größe_表"')
    await users.write("insert into \"größe_表\" (name) values ('one')")
    await users.events(1)

    forwarder = await forward(program, users, webhook.url)
    await forwarder.line("1 ")
    await eventually(lambda: webhook.taken)

    topic = webhook.requests[0].headers["X-Topic"]
    assert topic == f"{users.stream.topic}.public_gr%C3%B6%C3%9Fe_%E8%A1%A8"
    assert unquote(topic) == f"{users.stream.topic}.public_größe_表"


async def test_wrong_url_gives_no_event_up(users: Users, program: StartProgram) -> None:
    forwarder = await forward(program, users, "n8n.example.com/webhook")

    assert await forwarder.wait() == 2
    assert "the URL must begin with https:// or http://" in forwarder.output


async def test_restarted_it_goes_on_where_it_stopped(
    users: Users, program: StartProgram, webhook: Webhook
) -> None:
    await users.relay()
    await users.write("insert into users (name) values ('first')")
    forwarder = await forward(program, users, webhook.url)
    await forwarder.line("1 ")
    await eventually(lambda: len(webhook.taken) == 1)
    forwarder.send_signal(signal.SIGTERM)
    assert await forwarder.wait() == 0, forwarder.output
    assert not forwarder.stderr

    await users.write("insert into users (name) values ('second')")
    await forward(program, users, webhook.url)
    await eventually(lambda: len(webhook.taken) == 2)

    assert webhook.taken == await users.events(2)


async def test_function_of_openfaas_is_called_at_least_once(
    users: Users, program: StartProgram
) -> None:
    """In nats-connector's place, for those who can't afford to miss an event."""
    with openfaas.serve(EXAMPLES / "openfaas" / "stack.yml") as gateway:
        await users.relay()
        await users.write("insert into users (name) values ('Elim Garak')")
        subject = f"{users.stream.topic}.public_users"
        await forward(program, users, f"{gateway.url}/function/receive-event", "--subject", subject)
        await eventually(lambda: gateway.calls)

    assert gateway.calls[0].printed == f"{subject} INSERT users Elim Garak\n"
