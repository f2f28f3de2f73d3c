"""The SQL of :mod:`pgoutbox.outbox.reader`, beside the functions that it calls in ``sql/relay``."""

from __future__ import annotations

import re

from pgoutbox.outbox.disk import LOOK
from pgoutbox.outbox.progress_row import required

NOTE_ERROR = """
insert into pgoutbox.relay_error as e (relay, error) values ($1, $2)
on conflict (relay) do update set error = excluded.error, since = excluded.since
"""
CLEAR_ERROR = "delete from pgoutbox.relay_error where relay = $1"

NOTE_POLLING = """
insert into pgoutbox.relay_polling as p (relay, reason) values ($1, $2)
on conflict (relay) do update set reason = excluded.reason
"""
CLEAR_POLLING = "delete from pgoutbox.relay_polling where relay = $1"

# Of gaps that are settled, those are read that a holder may have filled: one that the query's own
# snapshot counts as ended, or one that was known to be gone before. Where nothing is unsent there
# is one row all the same, for the column `ended`.
BESIDE_HOLDERS = """
select COLUMNS, h.ended, h.written, h.ended_below
from (
    select
        pg_catalog.array_agg(x.xid) as ended,
        least($4::bigint, pg_catalog.min(x.since)) as again,
        LOOK
    from unnest($2::bigint[], $3::bigint[]) x (xid, since)
    where pg_catalog.pg_visible_in_snapshot(x.xid::text::xid8, pg_catalog.pg_current_snapshot())
) h
left join lateral pgoutbox.CALL, settled => $1, holders => $2::text[]::xid8[], again => h.again
) u on true
"""


def _beside_holders(call: str, columns: str = "u.*") -> str:
    question = BESIDE_HOLDERS.replace("CALL", call).replace("COLUMNS", columns)
    last = max(map(int, re.findall(r"\$(\d+)", question)))
    return required(question.replace("LOOK", LOOK.format(tells=f"${last + 1}::boolean")))


READ = _beside_holders("next_batch($5, $6, $7, $8, $9, $10, $11, $12")
READ_DESCRIBED = _beside_holders(
    "next_batch_described($5, $6, $7, $8, $9, $10, $11, $13, max_event_bytes => $12"
)
_SHARE = "next_batch_described($5, $6, $7, $8, $9, $10, $11, $13, $14, $15, $16, $12"
READ_SHARE = _beside_holders(_SHARE)
READ_BUCKET = _beside_holders(f"{_SHARE}, with_old_keys => true")

LARGEST = "select bytes from pgoutbox.largest_message where relay = $1 and stream = $2"
NOTE_LARGEST = """
insert into pgoutbox.largest_message as l (relay, stream, bytes) values ($1, $2, $3)
on conflict (relay, stream) do update set bytes = greatest(l.bytes, excluded.bytes)
"""

# Of the first event, what can be read of any. As a share's, where nobody can tell whose it is.
READ_KEY = _beside_holders(
    "unsent($5, $6, $7, $8, $9, 1, 9223372036854775807, -1",
    """
    u.position, u.seq, null as schema_name, null as table_name,
    case when $10 then 'unknown' end as action, null::bytea as new_row, null::bytea as old_row,
    u.id_source, u.is_full, u.is_last, u.bytes, u.is_read""",
)

# Names don't come from the relay, which may be unable to read them.
PARK = """
insert into pgoutbox.parked (
    relay, event_id, position, seq, schema_name, table_name, action,
    bytes, reason, number, size, subject, headers, payload
)
select
    $1, $2::text::uuid, $3, $4, (e.facts).schema_name, (e.facts).table_name, (e.facts).action,
    $5, concat($6::text, case
        when (e.facts).action = 'UPDATE' and octet_length(e.old_row) > octet_length(e.new_row) / 4
        then '; with install --old-values identity it would be without its old row, of '
            || octet_length(e.old_row) || ' bytes'
    end), $7, $8, $9, $10, $11
from (select) one left join lateral pgoutbox.event_at($3, $4) e on true
on conflict do nothing
returning reason
"""

# A relay that is frozen meanwhile would hold up vacuum, and the slots' locks; a condition that
# takes for ever, the events.
BRIEFLY = """
set local idle_in_transaction_session_timeout = '5s'; set local statement_timeout = '5s'
"""
