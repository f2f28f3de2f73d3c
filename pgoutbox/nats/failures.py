"""Explanations of failed connections to NATS, for people."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Mapping

import nats.errors

from pgoutbox.config.settings import NatsConfig
from pgoutbox.errors import Interrupted, PublishError

LOST = "the connection was lost"

# Raised by a failing connect, and by whatever uses a failing connection.
CONNECTION_ERRORS = (TimeoutError, OSError, nats.errors.Error, ValueError)


class Denied(Interrupted):
    """The server denied something that the relay can do without."""


class PlainServer(nats.errors.Error):
    """The server doesn't offer TLS, and the settings require it."""


def explain(failures: Mapping[str, Exception], config: NatsConfig) -> PublishError:
    """Return one sentence that says why each server, by address, could not be used."""
    servers: dict[str, list[str]] = {}
    hint = None
    for address, error in failures.items():
        problem, remedy = _diagnosis(error, config)
        servers.setdefault(problem, []).append(address)
        hint = hint or remedy
    sentence = "; ".join(
        f"NATS at {', '.join(sorted(addresses))} {problem}"
        for problem, addresses in servers.items()
    )
    return PublishError(sentence, hint=hint)


def _diagnosis(error: Exception, config: NatsConfig) -> tuple[str, str | None]:
    """Return what is wrong with a server, as a predicate, and what to do about it."""
    text = text_of(error)
    match error:
        case PlainServer():
            return (
                "doesn't offer TLS, which is required",
                "TLS is required by --nats-tls, by tls:// in the URL, and by naming certificates.",
            )
        case ssl.SSLCertVerificationError():
            return (
                f"has an untrusted certificate: {error.verify_message}",
                "Its CA must be in --nats-ca-cert, or among the system's if that isn't set,"
                " and it must be valid for the host name in the URL.",
            )
        case ssl.SSLError() if "ALERT" in (error.reason or ""):
            reason = str(error.reason).lower().partition("alert_")[2].replace("_", " ")
            return (
                f"rejected our certificate: {reason}",
                "Set --nats-client-cert and --nats-client-key to a valid pair, signed by a CA that"
                " the server trusts.",
            )
        case _ if re.search("authorization|authentication", text, re.I):
            return "rejected the credentials", _credentials_hint(config)
        case _ if "empty response from server" in text:
            return (
                "closed the connection without a word",
                "Is it nats-server that listens there, or a proxy with no server behind it?",
            )
        case TimeoutError():
            return "doesn't answer", None
        case socket.gaierror():
            return "can't be found: no such host", None
    if isinstance(error, ConnectionRefusedError) or f"Errno {errno.ECONNREFUSED}" in text:
        return (
            "refused the connection: nothing is listening there",
            "Check the NATS URL, and that nats-server is running.",
        )
    return f"can't be used: {text}", None


def _credentials_hint(config: NatsConfig) -> str:
    if config.creds:
        return "Is the JWT in --nats-creds still valid, and does the server know its account?"
    if config.nkey:
        return "Is the public key of --nats-nkey among the server's users?"
    if config.client_cert:
        return "Is the subject of --nats-client-cert among the server's users?"
    return (
        "Check the user and password, or the token, in the NATS URL or in --nats-user,"
        " --nats-password and --nats-token."
    )


def text_of(error: BaseException) -> str:
    """Return the text of an error of nats-py, without its prefix."""
    text = str(error) or type(error).__name__
    return text.removeprefix("nats: ").strip("'")
