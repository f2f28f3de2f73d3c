"""Keep a copy of table users in SQLite, from its events: pip install nats-py

A durable consumer: it goes on where it stopped. One event at a time, so none overtakes another,
not even one that is tried again. An event that comes twice has the same id, and counts once. One
that fails again and again is given up and named, so that it doesn't hold up the others.
"""

import argparse
import asyncio
import json
import signal
import sqlite3
import sys

import nats
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError, ServiceUnavailableError

TABLES = """
create table if not exists users (id text primary key, name text, email text);
create table if not exists seen (id text primary key, at default current_timestamp);
delete from seen where at < datetime('now', '-30 days');
"""


def apply(copy, event):
    """Make one change, and note its id, both in one transaction."""
    with copy:
        if copy.execute("select 1 from seen where id = ?", [event["id"]]).fetchone():
            return "seen before"
        copy.execute("insert into seen (id) values (?)", [event["id"]])
        if event["table"] == "users":
            change_users(copy, event["action"], event["data"], event["dataOld"])
        row = event["data"] or event["dataOld"]  # a TRUNCATE has neither
        return f"{event['action']} {event['table']} {row.get('id', '')}"


def change_users(copy, action, new, old):
    if action == "TRUNCATE":
        copy.execute("delete from users")
    elif action == "DELETE":
        copy.execute("delete from users where id = ?", [old["id"]])
    else:
        if old:
            copy.execute("delete from users where id = ?", [old["id"]])
        copy.execute("insert or replace into users values (:id, :name, :email)", new)


async def handle(copy, message, delays):
    """Apply an event, then acknowledge it; on failure have it delivered again, later."""
    sequence, delivery = message.metadata.sequence.stream, message.metadata.num_delivered
    if delivery > len(delays) + 1:  # it may have crashed us, so look before anything else
        print(f"{sequence} given up; see: nats stream get {message.metadata.stream} {sequence}")
        return await message.term()
    try:
        print(sequence, apply(copy, json.loads(message.data)))
    except Exception as error:
        print(f"{sequence} failed: {error!r}")
        return await message.nak(delay=[*delays, 0][delivery - 1])
    await message.ack()


async def complain(error):
    print(f"NATS: {error}", file=sys.stderr)


async def consume(arguments):
    copy = sqlite3.connect(arguments.copy)
    copy.executescript(TABLES)
    client = await nats.connect(arguments.nats, max_reconnect_attempts=-1, error_cb=complain)
    jetstream = client.jetstream()
    config = ConsumerConfig(
        durable_name=arguments.name,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=30,  # seconds; longer than an event may take
        max_ack_pending=1,
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
        await handle(copy, message, arguments.delays)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--nats", default="nats://localhost:4222")
    parser.add_argument("--stream", default="wal_listener")
    parser.add_argument("--name", default="users-copy", help="the durable consumer's")
    parser.add_argument("--copy", default="users.sqlite")
    parser.add_argument(
        "--delays",
        nargs="+",
        type=float,
        default=[1, 5, 30, 120],
        help="seconds before an event is tried again; after the last it is given up",
    )
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: sys.exit())  # what isn't acknowledged comes again
    sys.stdout.reconfigure(line_buffering=True)
    asyncio.run(consume(parser.parse_args()))


if __name__ == "__main__":
    main()
