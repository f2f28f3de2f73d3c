"""Looking at PostgreSQL and NATS before and after an installation, for what will go wrong."""
