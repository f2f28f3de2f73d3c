"""The daemon: publishing events as they are committed."""
