"""Django: an operation for migrations, and an app that captures models after ``migrate``.

In a migration::

    from pgoutbox.contrib.django import CaptureTable

    operations = [CaptureTable("order", actions=["insert", "update"])]

Or in the settings, for those who rather name them in one place::

    INSTALLED_APPS = [..., "pgoutbox.contrib.django"]
    PGOUTBOX_CAPTURE = ["shop.Order", "shop.Customer"]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.migrations.operations.base import Operation

from pgoutbox.contrib import statements


def table_of(model: Any) -> str:
    """Return the quoted name of a model's table."""
    name: str = model._meta.db_table
    # Django passes a quoted name on as it is, and so people name schemas: '"shop"."order"'.
    return name if name.startswith('"') else statements.quoted(name)


class CaptureTable(Operation):  # type: ignore[misc] # Django has no types
    """Capture the changes of a model's table from now on; its reverse releases the table.

    Args:
        name: of the model, in the migration's app.
        actions: of ``insert``, ``update``, ``delete``, ``truncate``.
        old_values: ``full`` or ``identity``.

    """

    reduces_to_sql = True
    reversible = True

    def __init__(
        self, name: str, *, actions: Sequence[str] | None = None, old_values: str | None = None
    ) -> None:
        self.name = name
        self.actions = actions
        self.old_values = old_values

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change nothing about the models."""

    def database_forwards(self, app_label: str, schema_editor: Any, _: Any, to_state: Any) -> None:
        """Capture the table, where this database is PostgreSQL and has the model."""
        options = {"actions": self.actions, "old_values": self.old_values}
        self._run(schema_editor, to_state, app_label, statements.capture, options)

    def database_backwards(self, app_label: str, schema_editor: Any, _: Any, to_state: Any) -> None:
        """Release the table."""
        self._run(schema_editor, to_state, app_label, statements.release, {})

    def describe(self) -> str:
        """Return what ``migrate --plan`` shows."""
        return f"Capture table of {self.name}"

    @property
    def migration_name_fragment(self) -> str:
        """What ``makemigrations`` would name a migration after."""
        return f"capture_{self.name.lower()}"

    def _run(
        self, schema_editor: Any, state: Any, app_label: str, make: Any, options: dict[str, Any]
    ) -> None:
        model = state.apps.get_model(app_label, self.name)
        alias = schema_editor.connection.alias
        if schema_editor.connection.vendor == "postgresql" and self.allow_migrate_model(
            alias, model
        ):
            schema_editor.execute(make(table_of(model), **options), params=None)
