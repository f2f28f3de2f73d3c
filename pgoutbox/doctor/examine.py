"""All checks, of both sides and of the settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pgoutbox.config.settings import Config
from pgoutbox.database import connection
from pgoutbox.database.target import target_of
from pgoutbox.doctor import nats, postgresql
from pgoutbox.doctor.finding import Finding
from pgoutbox.errors import DatabaseError, SchemaError


async def examine(config: Config, tables: Sequence[str], *, with_nats: bool) -> list[Finding]:
    """Look at PostgreSQL, and at NATS where wanted; ``tables`` are to be captured.

    Raises:
        ConfigError: a setting is wrong.
    """
    found, checked = await _examine_postgresql(config, tables)
    if with_nats:
        found += await nats.examine(config, target_of(config.database).database, checked)
    return [*found, *_settings(config)]


async def _examine_postgresql(
    config: Config, tables: Sequence[str]
) -> tuple[list[Finding], list[postgresql.CheckedTable]]:
    try:
        async with connection.session(config.database, purpose="doctor", primary=False) as conn:
            patient = postgresql.Patient(conn, config, tables)
            return await postgresql.examine(patient), patient.checked
    except (DatabaseError, SchemaError) as error:
        return [postgresql.finding("connection", "attention", str(error), error.hint)], []


def _settings(config: Config) -> Iterator[Finding]:
    """Yield what of the settings has no effect."""
    warnings = config.warnings
    notes = [*config.notes, *target_of(config.database).notes]
    yield from (Finding("settings", "effect", "attention", said) for said in warnings)
    yield from (Finding("settings", "effect", "note", said) for said in notes)
    if not (warnings or notes):
        yield Finding("settings", "effect", "ok", "each that is set has one")
