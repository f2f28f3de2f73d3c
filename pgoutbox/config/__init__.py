"""What can be set, and reading it from flags, environment and file."""
