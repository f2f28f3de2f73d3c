"""A ring of slots that goes round in seconds."""

_SET_RING = """
create or replace function pgoutbox.ring(out period integer, out slots integer)
    language sql immutable set search_path = pg_catalog, pg_temp as 'select {seconds}, 5';
select pgoutbox.refresh_capture(relation) from pgoutbox.captured_table
"""


def slots_of(seconds: int) -> str:
    """Return SQL that makes transactions begin in each slot for so long; a lap has five."""
    return _SET_RING.format(seconds=seconds)
