"""The advisory lock that relays share with writers.

Beside it each leadership has one, whose number follows from its uuid (``sql/relay/lead.sql``).
SQL that runs inside PostgreSQL has the same number in its text; ``tests/unit/test_sql_files.py``
compares them.
"""

from __future__ import annotations

# K. A relay that holds it exclusively sleeps, and writers notify; a writer shares it from its
# commit stage on, and no relay falls asleep before that commit is visible.
SLEEP_LOCK = (1885826914, 0)
