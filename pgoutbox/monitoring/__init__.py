"""What the relay knows of itself, for probes, metrics and Sentry."""
