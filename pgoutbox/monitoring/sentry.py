"""Errors for Sentry: lines of level ERROR and what ends the relay; never data, never a secret."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pgoutbox import __version__
from pgoutbox.errors import ConfigError
from pgoutbox.redact import redact

_FLUSH_TIMEOUT = 2.0  # seconds that a stop waits for what isn't sent yet
_LEFT_OUT = "(left out: it may hold data)"


@contextmanager
def reporting(dsn: str | None) -> Iterator[None]:
    """Report errors to the project of ``dsn`` from now on, and what is raised here; None: don't.

    Whatever happens to Sentry, nothing here waits for it but for a moment at the end.

    Raises:
        ConfigError: the package for it isn't installed, or ``dsn`` is wrong.

    """
    if dsn is None:
        yield
        return
    _start(dsn)
    import sentry_sdk

    try:
        yield
    except Exception as error:
        sentry_sdk.capture_exception(error)
        raise
    finally:
        sentry_sdk.get_client().close(timeout=_FLUSH_TIMEOUT)


def _start(dsn: str) -> None:
    try:
        import sentry_sdk
        from sentry_sdk.integrations.logging import LoggingIntegration
        from sentry_sdk.utils import BadDsn
    except ImportError as error:
        raise ConfigError(
            "errors can't be sent to Sentry: the package sentry-sdk isn't installed",
            hint="Run: pip install 'pgoutbox[sentry]', or give no DSN of Sentry's.",
        ) from error
    # Its retries are nobody's business.
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
    try:
        sentry_sdk.init(
            dsn,
            release=f"pgoutbox@{__version__}",
            # The default ones send the command line and its password, and wait at exit.
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[LoggingIntegration(level=logging.INFO, event_level=logging.ERROR)],
            include_local_variables=False,
            send_default_pii=False,
            send_client_reports=False,
            auto_session_tracking=False,
            before_breadcrumb=_only_ours,
            before_send=_clean_event,
        )
    except (BadDsn, ValueError) as error:  # their text may quote the key
        raise ConfigError(
            "the DSN for Sentry is wrong",
            hint="Copy it from the project's settings: https://KEY@HOST/NUMBER.",
        ) from error


def _is_ours(name: object) -> bool:
    return str(name).startswith("pgoutbox.")


def _only_ours(crumb: Any, _: Any) -> Any:
    return crumb if _is_ours(crumb.get("category")) else None


def _clean_event(event: Any, _: Any) -> Any:
    for exception in event.get("exception", {}).get("values", ()):
        # Our own sentences hold no data; those of drivers and of Python quote values.
        if not _is_ours(exception.get("module")):
            exception["value"] = _LEFT_OUT
    if "logentry" in event and not _is_ours(event.get("logger")):
        # asyncio goes on with what a task has failed with.
        event["logentry"] = {"message": event["logentry"].get("message", "").partition("\n")[0]}
    return _clean(event)


def _clean(value: Any) -> Any:
    """Return ``value`` without secrets, and without subjects: a row's key may be part of one."""
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items() if key != "subject"}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return redact(value) if isinstance(value, str) else value
