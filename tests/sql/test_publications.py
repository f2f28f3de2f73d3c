"""Publications of all tables, which have ours, too: no statement of a writer fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import asyncpg
import pytest

from tests.conftest import Servers
from tests.support.cluster import ADMIN, Cluster, Database

from .conftest import Capture
from .outbox import Outbox

WITHOUT_IDENTITY = """
select c.oid::regclass::text
from pg_class c
left join pg_index i on i.indexrelid = pg_get_replica_identity_index(c.oid)
where c.relnamespace = 'pgoutbox'::regnamespace and c.relkind in ('r', 'p')
  and c.relreplident <> 'f' and i.indexrelid is null
"""
NOTE_ORDERS = """
create function note_order() returns trigger language plpgsql as $$
begin
    insert into audit (order_id) values (new.id);
    update audit set times = times + 1 where order_id = new.id;
    return null;
end $$;
create trigger note after insert or update on orders
    for each row execute function note_order();
"""


@pytest.fixture(scope="module", params=["replica", "logical"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A PostgreSQL with that wal_level."""
    servers = Servers()
    server = servers.postgres(wal_level=request.param)
    cluster = Cluster(server.dsn(), server)
    asyncio.run(cluster.prepare())
    yield cluster
    servers.close()


@pytest.fixture(autouse=True)
async def _published(database: Database, connection: asyncpg.Connection, capture: Capture) -> None:
    await capture("orders", "id int primary key, n int default 0")
    await capture("audit", "id serial primary key, order_id int, times int default 0")
    await connection.execute(NOTE_ORDERS)
    admin = await database.connect(ADMIN)
    await admin.execute("set client_min_messages = error")  # wal_level is too low, says PostgreSQL
    await admin.execute("create publication everything for all tables")


async def test_every_table_of_ours_has_a_replica_identity(connection: asyncpg.Connection) -> None:
    assert await connection.fetch(WITHOUT_IDENTITY) == []


@pytest.mark.parametrize("constraints", ["deferred", "immediate"])
async def test_triggers_that_write_captured_tables(
    connection: asyncpg.Connection, outbox: Outbox, constraints: str
) -> None:
    """The commit stage puts events in order, and withdraws its row when it runs again."""
    await connection.execute(f"""
        begin;
        insert into orders values (1), (2);
        set constraints all {constraints};
        update orders set n = 1;
        savepoint s;
        insert into orders values (3), (4);
        rollback to s;
        delete from orders where id = 1;
        truncate audit;
        commit
    """)

    (transaction,) = await outbox.transactions()

    assert Counter((event.action, event.table) for event in transaction) == {
        ("INSERT", "orders"): 2,
        ("UPDATE", "orders"): 2,
        ("DELETE", "orders"): 1,
        ("INSERT", "audit"): 4,
        ("UPDATE", "audit"): 2 + 4,
        ("TRUNCATE", "audit"): 1,
    }


async def test_what_a_relay_writes(connection: asyncpg.Connection, outbox: Outbox) -> None:
    await connection.execute("insert into orders values (1)")
    high = max(row["position"] for row in await outbox.rows())
    await connection.execute("select pgoutbox.lead('default'), pgoutbox.lead('default')")
    await connection.execute("select pgoutbox.shard_key_of('default-of-2', 'public', 'orders')")
    place = await connection.fetchval(
        "select row_tid from pgoutbox.progress p, pgoutbox.advance("
        " p.tableoid, p.ctid, p.xmin, $1, '{}', '{}', null, null, 0, '{}', '{}', 'null', null,"
        " false)",
        high,
    )
    rotated = await connection.fetch(
        "select slot from generate_series(0, 4) slot where pgoutbox.rotate(slot)"
    )

    assert place is not None
    assert len(rotated) == 1
    assert await connection.fetchval("select count(*) from pgoutbox.outbox") == 0


async def test_tables_are_refreshed_and_released(
    connection: asyncpg.Connection, outbox: Outbox
) -> None:
    await connection.execute("""
        alter table orders add c int;
        select pgoutbox.mend_drift();
        select pgoutbox.capture_table('audit', '{INSERT}', 'identity');
        select pgoutbox.release_table('orders');
        insert into orders values (1)
    """)

    assert [event.action for event in await outbox.events()] == ["INSERT"]
