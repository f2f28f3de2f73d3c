"""Showing events as they are captured, and messages as they are published."""
