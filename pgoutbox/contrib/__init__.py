"""Capturing tables from other libraries' migrations; each module needs its library.

What they run does nothing in a database without schema pgoutbox, such as a test database, and
fails where that is older than this pgoutbox.
"""
