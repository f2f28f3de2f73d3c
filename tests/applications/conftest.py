"""Applications of others, with a captured table, over the drivers that they use."""

from __future__ import annotations

import pytest

from tests.support.cluster import OWNER, Database

TABLES = """
create table users (id int primary key, name text, email text unique deferrable initially deferred);
create table orders (id int primary key, total numeric);
select pgoutbox.capture_table('users'), pgoutbox.capture_table('orders');
insert into users values (1, 'John Wick', 'john@continental.example');
"""


@pytest.fixture
async def shop(database: Database) -> Database:
    """A database with two captured tables and a user."""
    connection = await database.connect(OWNER)
    await connection.execute(TABLES)
    return database
