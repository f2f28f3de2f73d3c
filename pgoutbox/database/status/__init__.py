"""How it stands: the schema, the captured tables, the relays, and what is in the way."""

from pgoutbox.database.status.gather import gap_holders, gather
from pgoutbox.database.status.model import Holder, SchemaStatus, Status
from pgoutbox.database.status.problems import is_long, problems
from pgoutbox.database.status.text import to_json, to_text

__all__ = [
    "Holder",
    "SchemaStatus",
    "Status",
    "gap_holders",
    "gather",
    "is_long",
    "problems",
    "to_json",
    "to_text",
]
