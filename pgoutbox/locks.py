"""Every advisory lock that pgoutbox takes, by number.

SQL that runs inside PostgreSQL has the same numbers in its text; ``tests/unit/test_sql_files.py``
compares them.
"""

from __future__ import annotations

import zlib

# K. A relay that holds it exclusively sleeps, and writers notify; a writer shares it from its
# commit stage on, and no relay falls asleep before that commit is visible.
SLEEP_LOCK = (1885826914, 0)

# The first key of each relay's leader lock; see leader_lock().
LEADER_LOCK_CLASS = 1885826915

# Held while the schema is changed.
INSTALL_LOCK = (1885826916, 0)


def leader_lock(relay: str) -> tuple[int, int]:
    """Return the advisory lock that the leader of ``relay`` holds, as its two keys."""
    number = zlib.crc32(relay.encode())
    return LEADER_LOCK_CLASS, number - 2**32 if number >= 2**31 else number
