"""The app that captures the models of ``PGOUTBOX_CAPTURE`` after each ``migrate``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.db.models.signals import post_migrate

from pgoutbox.contrib import statements
from pgoutbox.contrib.django import table_of

NOT_INSTALLED = (
    "  Not captured: {}. This database has no schema pgoutbox; run pgoutbox install, and migrate"
    " again."
)


class PgoutboxConfig(AppConfig):  # type: ignore[misc] # Django has no types
    """Connects to the signal."""

    name = "pgoutbox.contrib.django"
    label = "pgoutbox"

    def ready(self) -> None:
        """Check the setting, and wait for ``migrate``."""
        for label in _wanted():
            try:
                apps.get_model(label)
            except (LookupError, ValueError) as error:
                raise ImproperlyConfigured(f"PGOUTBOX_CAPTURE: {error}") from error
        post_migrate.connect(_capture, dispatch_uid="pgoutbox")


def _wanted() -> list[str]:
    """Return the models that the settings name, such as ``shop.Order``."""
    return list(getattr(settings, "PGOUTBOX_CAPTURE", []))


def _capture(app_config: Any, using: str, verbosity: int = 0, stdout: Any = None, **_: Any) -> None:
    connection = connections[using]
    models = list(_models_of(app_config, using)) if connection.vendor == "postgresql" else []
    if not models:
        return
    with connection.cursor() as cursor:
        cursor.execute("select pg_catalog.to_regnamespace('pgoutbox') is null")
        if cursor.fetchone()[0]:
            if stdout is not None and verbosity > 0:
                stdout.write(NOT_INSTALLED.format(", ".join(model._meta.label for model in models)))
            return
        for model in models:
            cursor.execute(statements.capture(table_of(model)))


def _models_of(app_config: Any, using: str) -> Iterator[Any]:
    """Yield the models that the settings name, of an app, with a table in this database."""
    present = set(connections[using].introspection.table_names())
    for model in map(apps.get_model, _wanted()):
        is_here = model._meta.db_table in present or model._meta.db_table.startswith('"')
        if (
            model._meta.app_config is app_config
            and is_here
            and router.allow_migrate_model(using, model)
        ):
            yield model
