"""From an event to a message: payload, subject, headers."""
