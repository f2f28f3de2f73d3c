"""Reading the outbox: what comes next, and what has been sent."""
