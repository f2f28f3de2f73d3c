"""POST each event to a URL, in order, until it answers 2xx: pip install nats-py

For n8n, Zapier, or OpenFaaS's gateway. While the URL is down or busy, the event is tried again for
as long as it takes, and no other overtakes it. One that is refused (3xx, 4xx) is given up and
named after the last delay. Idempotency-Key is the event's id, the same at each attempt.
"""

import argparse
import asyncio
import http.client
import json
import os
import signal
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid

import nats
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError, ServiceUnavailableError

BUSY = (408, 425, 429)  # of 4xx these say: later


class Unfollowed(urllib.request.HTTPRedirectHandler):
    """Leaves a redirection as the answer: what follows it is a GET, without the event."""

    def redirect_request(self, *_):
        return None


OPENER = urllib.request.build_opener(Unfollowed)


def post(url, message, event_id):
    """Return the status of the answer, or 0 where none comes."""
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": event_id,
        "X-Topic": urllib.parse.quote(message.subject),  # no header has more than Latin-1
    }
    if authorization := os.environ.get("WEBHOOK_AUTHORIZATION"):
        headers["Authorization"] = authorization
    request = urllib.request.Request(url, message.data, headers)  # noqa: S310 - see main
    try:
        with OPENER.open(request, timeout=15) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return 0


async def handle(url, message, delays):
    """Post an event, then acknowledge it; else have it delivered again, later."""
    sequence, delivery = message.metadata.sequence.stream, message.metadata.num_delivered
    try:
        event_id = str(uuid.UUID(json.loads(message.data)["id"]))
    except (ValueError, LookupError, TypeError, AttributeError):
        print(f"{sequence} {message.subject} is no event")
        return await message.term()
    status = await asyncio.to_thread(post, url, message, event_id)
    print(f"{sequence} {message.subject} attempt {delivery}: {status or 'no answer'}")
    if 200 <= status < 300:
        return await message.ack()
    if 300 <= status < 500 and status not in BUSY and delivery > len(delays):
        print(f"{sequence} given up; see: nats stream get {message.metadata.stream} {sequence}")
        return await message.term()
    await message.nak(delay=delays[min(delivery, len(delays)) - 1])


async def complain(error):
    print(f"NATS: {error}", file=sys.stderr)


async def forward(arguments):
    client = await nats.connect(arguments.nats, max_reconnect_attempts=-1, error_cb=complain)
    jetstream = client.jetstream()
    config = ConsumerConfig(
        durable_name=arguments.name,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=30,  # seconds; longer than a POST may take
        max_ack_pending=1,
        filter_subject=arguments.subject,
    )
    while True:
        try:
            await jetstream.add_consumer(arguments.stream, config)
            break
        except (NotFoundError, ServiceUnavailableError, TimeoutError):
            await asyncio.sleep(1)  # the relay makes the stream when it first connects
    subscription = await jetstream.pull_subscribe_bind(arguments.name, arguments.stream)
    while True:
        try:
            (message,) = await subscription.fetch(1, timeout=5)
        except (ServiceUnavailableError, TimeoutError):  # nothing new, or NATS is away
            await asyncio.sleep(0.1)
            continue
        await handle(arguments.url, message, arguments.delays)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("url")
    parser.add_argument("--nats", default="nats://localhost:4222")
    parser.add_argument("--stream", default="wal_listener")
    parser.add_argument("--subject", help="only events on this one, such as wal_listener.x")
    parser.add_argument("--name", default="webhook", help="the durable consumer's")
    parser.add_argument(
        "--delays",
        nargs="+",
        type=float,
        default=[1, 2, 5, 10, 30, 60],
        help="seconds between attempts; the last stays, while the URL is down",
    )
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: sys.exit())  # what isn't acknowledged comes again
    sys.stdout.reconfigure(line_buffering=True)
    arguments = parser.parse_args()
    if not arguments.url.startswith(("https://", "http://")):
        parser.error("the URL must begin with https:// or http://")
    asyncio.run(forward(arguments))


if __name__ == "__main__":
    main()
