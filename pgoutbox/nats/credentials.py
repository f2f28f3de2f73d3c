"""How a relay authenticates to NATS: user, token, nkey, credentials file, TLS certificate."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from nats.aio.client import RawCredentials

from pgoutbox.config.settings import NatsConfig
from pgoutbox.errors import ConfigError


def user_of(url: str, config: NatsConfig) -> dict[str, Any]:
    """Return user and password, or the token, from the URL or else from the settings."""
    parts = urlsplit(url)
    if parts.username is None:
        given = {"user": config.user, "password": config.password, "token": config.token}
        return {name: value for name, value in given.items() if value}
    if parts.password is None:
        return {"token": unquote(parts.username)}
    return {"user": unquote(parts.username), "password": unquote(parts.password)}


def requires_tls(url: str, config: NatsConfig) -> bool:
    """Return True unless a connection without TLS will do; naming a certificate asks for TLS."""
    is_named = config.ca_cert or config.client_cert
    return config.enable_tls or bool(is_named) or urlsplit(url).scheme == "tls"


def client_options(config: NatsConfig) -> dict[str, Any]:
    """Return nats-py's connection options, with secrets from the files that ``config`` names.

    Raises:
        ConfigError: a file is missing, or its contents are invalid.
    """
    options: dict[str, Any] = {"inbox_prefix": config.inbox_prefix}
    if config.nkey:
        options["nkeys_seed_str"] = _seed(_read(config.nkey, "nkey file").split(), config.nkey)
    if config.creds:
        options["user_credentials"] = RawCredentials(_credentials(config.creds))
    if config.ca_cert or config.client_cert:
        options["tls"] = _tls(config)
    return options


def check_files(config: NatsConfig) -> None:
    """Check that the files that ``config`` names exist and have valid contents.

    Raises:
        ConfigError: one doesn't.
    """
    client_options(config)


def _read(file: str, what: str) -> str:
    try:
        return Path(file).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the {what} {file} isn't text") from error
    except OSError as error:
        raise ConfigError(f"the {what} {file} can't be read: {error.strerror}") from error


def _seed(lines: Iterable[str], file: str) -> str:
    """Return the first user seed among ``lines``."""
    try:
        import nkeys
    except ImportError as error:
        raise ConfigError(
            "nkeys and credentials files need the package nkeys",
            hint="pip install 'pgoutbox[nkeys]'",
        ) from error
    for line in lines:
        with suppress(nkeys.NkeysError, ValueError):
            if line.startswith("SU") and nkeys.from_seed(bytearray(line.encode())):
                return line
    raise ConfigError(
        f"{file} contains no user seed of an nkey", hint="A user seed starts with SU."
    )


_IN_CREDENTIALS = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+", re.I)


def _credentials(file: str) -> str:
    """Return the text of a credentials file in a form that nats-py can read.

    nats-py hangs on a file without a JWT, so that is checked here.

    Written by ``nsc generate creds``; https://docs.nats.io has the format.
    """
    text = _read(file, "credentials file")
    jwt = _IN_CREDENTIALS.search(text)
    if jwt is None:
        raise ConfigError(f"the credentials file {file} contains no user JWT")
    seed = _seed(text.split(), file)
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt[1]}\n------END NATS USER JWT------\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


def _tls(config: NatsConfig) -> ssl.SSLContext:
    if config.ca_cert:
        _read(config.ca_cert, "CA certificate")
    try:
        context = ssl.create_default_context(cafile=config.ca_cert)
    except ssl.SSLError as error:
        raise ConfigError(f"{config.ca_cert} contains no PEM certificate") from error
    if config.client_cert and config.client_key:
        _read(config.client_cert, "client certificate")
        _read(config.client_key, "client key")
        _load_pair(context, config.client_cert, config.client_key)
    return context


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except _Encrypted as error:
        raise ConfigError(
            f"the client key {key} is encrypted",
            hint="Store it without a passphrase, readable by the relay alone.",
        ) from error
    except ssl.SSLError as error:
        problem = (
            f"the client key {key} doesn't belong to the certificate {certificate}"
            if error.reason == "KEY_VALUES_MISMATCH"
            else f"{certificate} and {key} aren't a PEM certificate and its key"
        )
        raise ConfigError(problem) from error


class _Encrypted(Exception):
    """The key has a passphrase, which OpenSSL would otherwise ask for on the terminal."""


def _no_passphrase() -> NoReturn:
    raise _Encrypted
