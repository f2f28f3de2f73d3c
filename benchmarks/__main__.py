"""``python -m benchmarks``: measure, and print what came out."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import pgoutbox
from benchmarks import drain, latency, scaling, writers
from benchmarks.rig import Failed, Rig, rig
from pgoutbox.errors import PgoutboxError

BENCHMARKS = {
    "drain": drain.run,
    "writers": writers.run,
    "latency": latency.run,
    "scaling": scaling.run,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--scale", default=1.0, show_default=True, help="Size of each, 1 being the full one.")
@click.option("--runs", default=5, show_default=True, help="Runs to take the median of.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write every run's figures there."
)
def main(names: Sequence[str], scale: float, runs: int, json_file: Path | None) -> None:
    """Measure throughput, latency, and what a write costs; all without a name.

    \b
    python -m benchmarks
    python -m benchmarks drain latency --scale 0.1 --runs 3 --json figures.json
    """
    try:
        with rig(scale, runs) as servers:
            report = asyncio.run(_measure(servers, names or tuple(BENCHMARKS)))
    except (Failed, PgoutboxError) as error:
        sys.exit(f"error: {error}")
    if json_file:
        json_file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


async def _measure(servers: Rig, names: Sequence[str]) -> dict[str, Any]:
    """Run the benchmarks one after another, printing each as it is done."""
    setting = _setting(servers)
    click.echo(_headline(setting))
    await servers.prepare()
    tables = []
    for name in names:
        for table in await BENCHMARKS[name](servers):
            click.echo(f"\n{table.to_text()}")
            tables.append(table.to_json())
    return {**setting, "tables": tables}


def _setting(servers: Rig) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "versions": {
            "pgoutbox": pgoutbox.__version__,
            "PostgreSQL": servers.postgres.version,
            "nats-server": servers.nats.version,
            "Python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("asyncpg", "nats-py")},
        },
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "scale": servers.scale,
        "runs": servers.runs,
    }


def _headline(setting: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
    return (
        f"{versions}\n{setting['system']}, {setting['cores']} cores, load {setting['load']} before;"
        f" medians of {setting['runs']} runs, side by side; scale {setting['scale']:g}"
    )


if __name__ == "__main__":
    main()
