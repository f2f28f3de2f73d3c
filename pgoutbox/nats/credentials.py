"""How a relay proves to NATS who it is: users, tokens, nkeys, credentials files, TLS."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from nats.aio.client import RawCredentials

from pgoutbox.config.settings import PublisherConfig
from pgoutbox.errors import ConfigError


def user_of(url: str, config: PublisherConfig) -> dict[str, Any]:
    """Return user and password, or the token: of the URL, else of the settings."""
    parts = urlsplit(url)
    if parts.username is None:
        given = {"user": config.user, "password": config.password, "token": config.token}
        return {name: value for name, value in given.items() if value}
    if parts.password is None:
        return {"token": unquote(parts.username)}
    return {"user": unquote(parts.username), "password": unquote(parts.password)}


def insists_on_tls(url: str, config: PublisherConfig) -> bool:
    """Whoever names a CA or a certificate counts on TLS, too."""
    is_named = config.ca_cert or config.client_cert
    return config.enable_tls or bool(is_named) or urlsplit(url).scheme == "tls"


def client_options(config: PublisherConfig) -> dict[str, Any]:
    """Return what the client is to connect with, read from the files that ``config`` names.

    Raises:
        ConfigError: a file is missing, or isn't what it should be.

    """
    options: dict[str, Any] = {"inbox_prefix": config.inbox_prefix}
    if config.nkey:
        options["nkeys_seed_str"] = _seed(_read(config.nkey, "nkey file").split(), config.nkey)
    if config.creds:
        options["user_credentials"] = RawCredentials(_credentials(config.creds))
    if config.ca_cert or config.client_cert:
        options["tls"] = _tls(config)
    return options


def check_files(config: PublisherConfig) -> None:
    """See that the files which ``config`` names are there, and hold what they should.

    Raises:
        ConfigError: one doesn't.

    """
    client_options(config)


def _read(file: str, what: str) -> str:
    try:
        return Path(file).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the {what} {file} is no text") from error
    except OSError as error:
        raise ConfigError(f"the {what} {file} can't be read: {error.strerror}") from error


def _seed(lines: Iterable[str], file: str) -> str:
    """Return the first seed of a user among ``lines``."""
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
    raise ConfigError(f"{file} holds no seed of a user's nkey", hint="Such a seed begins with SU.")


_IN_CREDENTIALS = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+", re.I)


def _credentials(file: str) -> str:
    """Return the text of a credentials file as nats-py reads it, which hangs where there is no JWT.

    Written by ``nsc generate creds``; https://docs.nats.io has the format.
    """
    text = _read(file, "credentials file")
    jwt = _IN_CREDENTIALS.search(text)
    if jwt is None:
        raise ConfigError(f"the credentials file {file} holds no JWT of a user")
    seed = _seed(text.split(), file)
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt[1]}\n------END NATS USER JWT------\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


def _tls(config: PublisherConfig) -> ssl.SSLContext:
    if config.ca_cert:
        _read(config.ca_cert, "CA certificate")
    try:
        context = ssl.create_default_context(cafile=config.ca_cert)
    except ssl.SSLError as error:
        raise ConfigError(f"{config.ca_cert} holds no certificate in PEM") from error
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
            hint="Store it without a passphrase, for the relay alone to read.",
        ) from error
    except ssl.SSLError as error:
        problem = (
            f"the client key {key} doesn't belong to the certificate {certificate}"
            if error.reason == "KEY_VALUES_MISMATCH"
            else f"{certificate} and {key} aren't a certificate and its key in PEM"
        )
        raise ConfigError(problem) from error


class _Encrypted(Exception):
    """The key has a passphrase; OpenSSL itself would ask for it on the terminal."""


def _no_passphrase() -> NoReturn:
    raise _Encrypted
