"""PostgreSQL row changes on NATS, without a replication slot, in wal-listener's format."""

__version__ = "0.1.0"
