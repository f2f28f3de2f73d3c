"""PostgreSQL: connections, the schema, and what ``install`` and ``status`` do."""
