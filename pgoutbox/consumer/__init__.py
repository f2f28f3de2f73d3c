"""Consuming row changes: typed, in order by key, each handled once.

A durable consumer of the relay's stream::

    import nats
    from pgoutbox.consumer import Change, Inbox, consume

    inbox = Inbox("billing")

    async def handle(change: Change) -> None:
        async with pool.acquire() as connection, connection.transaction():
            if await inbox.is_new(connection, change):
                await bill(connection, change.row)

    client = await nats.connect("nats://localhost:4222")
    await consume(client, handle, durable="billing", subjects=["wal_listener.public_orders"])
"""

from pgoutbox.consumer.change import Change
from pgoutbox.consumer.consume import consume, consume_transactions
from pgoutbox.consumer.inbox import Inbox

__all__ = ["Change", "Inbox", "consume", "consume_transactions"]
