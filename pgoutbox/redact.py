"""Keeps passwords and tokens out of what people read."""

from __future__ import annotations

import re

_URL_SECRET = re.compile(r"(\w[\w+.-]*)://([^\s]*)@")
_KEY_SECRET = re.compile(
    r"(\b\w*(?:password|passwd|token|secret))(\s*[=:]\s*)('(?:[^'\\]|\\.)*'|[^\s&'\",]+)",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return ``text`` with the secrets of connection strings and URLs masked.

    Rather too much than too little: all between :// and the last @ is taken for credentials.
    """
    parts = re.split(r"(,\s*(?=\w[\w+.-]*://))", text)
    masked = "".join(_URL_SECRET.sub(_mask_url, part) for part in parts)
    return _KEY_SECRET.sub(r"\1\2***", masked)


def _mask_url(found: re.Match[str]) -> str:
    scheme, credentials = found[1], found[2]
    user, colon, _ = credentials.partition(":")
    if colon:
        return f"{scheme}://{user}:***@"
    # Before an @ alone stands a user for PostgreSQL, and a token for NATS.
    return f"{scheme}://{user if scheme.startswith('postgres') else '***'}@"
