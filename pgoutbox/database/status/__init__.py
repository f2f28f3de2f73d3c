"""How it stands: the schema, the captured tables, the relays, and what is in the way."""

from pgoutbox.database.status.gather import gather
from pgoutbox.database.status.model import Holder, SchemaStatus, Status
from pgoutbox.database.status.problems import problems
from pgoutbox.database.status.text import to_json, to_text

__all__ = ["Holder", "SchemaStatus", "Status", "gather", "problems", "to_json", "to_text"]
