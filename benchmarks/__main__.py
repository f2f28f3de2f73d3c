"""``python -m benchmarks``: measure, and print what came out."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import asyncpg
import click
import nats.errors
import psutil

from benchmarks import (
    choices,
    conditions,
    drain,
    emptying,
    gaps,
    growth,
    idle,
    instructions,
    latency,
    load,
    plots,
    replicas,
    scaling,
    snapshots,
    writers,
)
from benchmarks.report import Report, Table, text_table
from benchmarks.rig import Failed, Rig, rig
from pgoutbox.errors import PgoutboxError

BENCHMARKS: Mapping[str, Callable[[Rig], Awaitable[list[Table]]]] = {
    "drain": drain.run,
    "transaction": drain.run_transaction,
    "load": load.run,
    "latency": latency.run,
    "snapshot-rows": snapshots.run,
    "gaps": gaps.run,
    "emptying": emptying.run,
    "writers": writers.run,
    "instructions": instructions.run,
    "choices": choices.run,
    "sizes": writers.run_sizes,
    "snapshot": conditions.run_snapshot,
    "history": conditions.run_history,
    "tables": conditions.run_tables,
    "columns": conditions.run_columns,
    "large-rows": conditions.run_large_rows,
    "idle": idle.run,
    "growth": growth.run,
    "scaling": scaling.run,
    "replicas": replicas.run,
}

# What a measurement can fail with, and what its message then says enough of.
FAILURES = (
    Failed,
    PgoutboxError,
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    nats.errors.Error,
    psutil.Error,
    ExceptionGroup,
)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--scale", default=1.0, show_default=True, help="Size of each, 1 being the full one.")
@click.option("--runs", default=5, show_default=True, help="Runs to take the median of.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    help="Write every run's figures there, after each benchmark.",
)
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the tables there.")
@click.option(
    "--plots", "folder", type=click.Path(path_type=Path), help="Draw plots there, as SVG."
)
def main(
    names: Sequence[str],
    scale: float,
    runs: int,
    json_file: Path | None,
    markdown: Path | None,
    folder: Path | None,
) -> None:
    """Measure throughput, latency, and what a write costs; all without a name.

    The full run takes one and a half hours and 20 GB of disk.

    \b
    python -m benchmarks
    python -m benchmarks drain latency --scale 0.1 --runs 3 --json figures.json
    python -m benchmarks --json docs/performance/figures.json && make docs
    """
    try:
        with rig(scale, runs, {"max_prepared_transactions": "1"}) as servers:
            report = Report(servers.setting())
            asyncio.run(_measure(servers, report, names or tuple(BENCHMARKS), json_file))
    except (Failed, PgoutboxError) as error:
        sys.exit(f"error: {error}")
    if markdown:
        markdown.write_text(report.to_markdown())
    if folder:
        plots.write(report, folder)
    sys.exit(bool(report.failures))


async def _measure(
    servers: Rig, report: Report, names: Sequence[str], json_file: Path | None
) -> None:
    """Run the benchmarks one after another, printing each as it is done, and the goals.

    The figures so far are in ``json_file`` by then, so that an end before the last one loses none.
    """
    click.echo(report.headline())
    await servers.prepare()
    for name in names:
        began = time.monotonic()
        try:
            report.tables[name] = await BENCHMARKS[name](servers)
        except FAILURES as error:
            report.failures[name] = _sentence(error)
            click.echo(f"\nerror: {name}: {report.failures[name]}", err=True)
            continue
        finally:
            report.seconds[name] = round(time.monotonic() - began, 1)
            if json_file:
                report.write(json_file)
        for table in report.tables[name]:
            click.echo(f"\n{table.to_text()}")
    click.echo(f"\n{text_table(report.goals())}")


def _sentence(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
