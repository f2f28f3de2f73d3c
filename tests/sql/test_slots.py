"""The functions made for each slot of the ring are all alike."""

from __future__ import annotations

import re
from collections import defaultdict

import asyncpg

FUNCTIONS = r"""
    select p.proname, pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '')
    from pg_proc p
    where p.pronamespace = 'pgoutbox'::regnamespace and p.proname ~ '_[0-9]$'
      and p.proname !~ '^capture_'
"""
TRIGGERS = """
    select c.relname, pg_get_triggerdef(t.oid) || t.tgenabled::text
    from pg_trigger t join pg_class c on c.oid = t.tgrelid
    where c.relnamespace = 'pgoutbox'::regnamespace and not t.tgisinternal
"""
TABLES = """
    select c.relname, (
        select array_agg((a.attname, a.atttypid, a.attnotnull) order by a.attnum)::text
        from pg_attribute a where a.attrelid = c.oid and a.attnum > 0
    ) || c.relreplident::text || array(
        select pg_get_indexdef(i.indexrelid) from pg_index i where i.indrelid = c.oid
    )::text
    from pg_class c
    where c.relnamespace = 'pgoutbox'::regnamespace and c.relname ~ '_[0-9]$' and c.relkind = 'r'
"""


async def test_clones_are_those_of_slot_0(connection: asyncpg.Connection) -> None:
    by_slot: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for query in (FUNCTIONS, TRIGGERS, TABLES):
        for name, definition in await connection.fetch(query):
            slot = name[-1]
            text = re.sub(rf"_{slot}(?![0-9a-z])", "_N", definition)
            by_slot[slot].add((name[:-1], text))

    assert sorted(by_slot) == ["0", "1", "2", "3", "4"]
    assert all(made == by_slot["0"] for made in by_slot.values())
    assert {"commit_stage_", "commit_unusual_", "put_in_order_", "event_"} <= {
        name for name, _ in by_slot["0"]
    }
