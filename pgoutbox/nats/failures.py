"""What NATS connections fail with, in words for people."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Mapping

import nats.errors

from pgoutbox.config.settings import PublisherConfig
from pgoutbox.errors import PublishError

LOST = "the connection was lost"


FAILURES = (TimeoutError, OSError, nats.errors.Error, ValueError)


class PlainServer(nats.errors.Error):
    """The server doesn't offer TLS, and we insist on it."""


def explain(failures: Mapping[str, Exception], config: PublisherConfig) -> PublishError:
    """Return why none of the servers, by their address, could be used, in one sentence."""
    servers: dict[str, list[str]] = {}
    hint = None
    for where, error in failures.items():
        reason, hint_here = _reason(error, config)
        servers.setdefault(reason, []).append(where)
        hint = hint or hint_here
    sentence = "; ".join(f"NATS at {', '.join(sorted(at))} {why}" for why, at in servers.items())
    return PublishError(sentence, hint=hint)


def _reason(error: Exception, config: PublisherConfig) -> tuple[str, str | None]:
    """Return what a server does instead of letting us in, and what to do about it."""
    text = words(error)
    match error:
        case PlainServer():
            return (
                "doesn't offer TLS, and is not to be used without",
                "TLS is insisted on by --nats-tls, tls:// in the URL, and by naming certificates.",
            )
        case ssl.SSLCertVerificationError():
            return (
                f"has a certificate that can't be trusted: {error.verify_message}",
                "Its CA has to be in --nats-ca-cert, else among the system's,"
                " and its name has to be the one in the URL.",
            )
        case ssl.SSLError() if "ALERT" in (error.reason or ""):
            reason = str(error.reason).lower().partition("alert_")[2].replace("_", " ")
            return (
                f"refuses our certificate: {reason}",
                "Give a pair that the server's CA has signed and that is still valid:"
                " --nats-client-cert, --nats-client-key.",
            )
        case _ if re.search("authorization|authentication", text, re.I):
            return "doesn't let this user in", _about_credentials(config)
        case TimeoutError():
            return "doesn't answer", None
        case socket.gaierror():
            return "can't be found: there is no host of that name", None
    if isinstance(error, ConnectionRefusedError) or f"Errno {errno.ECONNREFUSED}" in text:
        return (
            "refuses connections: nothing listens there",
            "Check the NATS URL and that nats-server is running.",
        )
    return f"can't be used: {text}", None


def _about_credentials(config: PublisherConfig) -> str:
    if config.creds:
        return "Is the JWT in --nats-creds valid still, and its account known to the server?"
    if config.nkey:
        return "Is the public key that belongs to --nats-nkey among the server's users?"
    if config.client_cert:
        return "Is the subject of --nats-client-cert among the server's users?"
    return (
        "Check the user and password, or the token: in the NATS URL, or --nats-user and"
        " --nats-password, --nats-token."
    )


def words(error: BaseException) -> str:
    """Return an error of the client in words, without its prefix."""
    text = str(error) or type(error).__name__
    return text.removeprefix("nats: ").strip("'")
