"""TLS to PostgreSQL: what the parameters of a connection string ask for, and their files."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pgoutbox.errors import ConfigError

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full", "no-verify")

_BOUND_BY_NAME = (
    "channel_binding=require: the driver can't bind to the channel, so the server's certificate is"
    " verified instead, as with sslmode=verify-full"
)


@dataclass(frozen=True, slots=True)
class Tls:
    """How to go about TLS: ``attempts`` one after the other, None being one without.

    ``notes`` say what is done otherwise than was asked for.
    """

    attempts: tuple[ssl.SSLContext | None, ...]
    is_direct: bool = False
    verifies_name: bool = False
    notes: tuple[str, ...] = ()


def tls_of(given: Mapping[str, str], *, has_socket: bool) -> Tls:
    """Return what parameters of a connection string ask for.

    ``has_socket`` says that a connection may go through a socket of this machine, where there is
    no TLS.

    Raises:
        ConfigError: a mode or a file is wrong, or what was asked for isn't to be had.
    """
    mode = given.get("sslmode", "prefer")
    if mode not in MODES:
        raise ConfigError(
            f"the database's address has sslmode {mode}, which is none of {', '.join(MODES)}"
        )
    is_bound = given.get("channel_binding") == "require"
    if is_bound and (has_socket or mode == "disable"):
        raise ConfigError(
            "channel_binding=require needs TLS, which"
            f" {'no local socket has' if has_socket else 'sslmode=disable forbids'}",
            hint="Leave channel_binding out, or connect with TLS.",
        )
    notes = (_BOUND_BY_NAME,) if is_bound and mode != "verify-full" else ()
    mode = "verify-full" if is_bound else mode
    if given.get("require_auth") and (has_socket or mode != "verify-full"):
        raise ConfigError(
            "require_auth can't be honoured: the driver answers whatever the server asks for",
            hint="Leave it out, or have the server prove who it is with sslmode=verify-full.",
        )
    is_direct = given.get("sslnegotiation") == "direct"
    if is_direct and mode in MODES[:3]:
        raise ConfigError("sslnegotiation=direct needs sslmode=require, verify-ca or verify-full")
    if mode == "disable":
        return Tls((None,))
    context = _context(mode, given)
    attempts: dict[str, tuple[ssl.SSLContext | None, ...]] = {
        "allow": (None, context),
        "prefer": (context, None),
    }
    return Tls(attempts.get(mode, (context,)), is_direct, mode == "verify-full", notes)


def _context(mode: str, given: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["postgresql"])
    _limit_versions(context, given)
    if mode in ("require", "verify-ca", "verify-full"):
        _verify(context, mode, given)
    _present(context, given)
    return context


def _limit_versions(context: ssl.SSLContext, given: Mapping[str, str]) -> None:
    for name, attribute in (("min", "minimum_version"), ("max", "maximum_version")):
        parameter = f"ssl_{name}_protocol_version"
        default = "TLSv1.2" if name == "min" else ""
        if version := given.get(parameter, default):
            known = {"TLSv1": "TLSv1", "TLSv1.1": "TLSv1_1", "TLSv1.2": "TLSv1_2"}
            known["TLSv1.3"] = "TLSv1_3"
            if version not in known:
                raise ConfigError(f"{parameter} {version} is none of {', '.join(known)}")
            setattr(context, attribute, ssl.TLSVersion[known[version]])


def _verify(context: ssl.SSLContext, mode: str, given: Mapping[str, str]) -> None:
    """Have the server's certificate verified, as far as ``mode`` and the files there are say."""
    roots = given.get("sslrootcert") or _of_home("root.crt")
    if not roots and mode == "require":
        return
    if roots and roots != "system":
        _load(context, "sslrootcert", roots)
    else:
        context.load_default_certs()
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = mode == "verify-full" or (roots == "system" and mode != "verify-ca")
    revoked, folder = given.get("sslcrl") or _of_home("root.crl"), given.get("sslcrldir")
    if revoked:
        _load(context, "sslcrl", revoked)
    if folder:
        context.load_verify_locations(capath=folder)
    if revoked or folder:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def _present(context: ssl.SSLContext, given: Mapping[str, str]) -> None:
    """Load the client's own certificate, if there is one."""
    certificate = given.get("sslcert") or _of_home("postgresql.crt")
    if not certificate or given.get("sslcertmode") == "disable":
        return
    key = given.get("sslkey") or _of_home("postgresql.key") or certificate
    _look_into("sslcert", certificate, "CERTIFICATE")
    _look_into("sslkey", key, "PRIVATE KEY")
    try:
        context.load_cert_chain(certificate, key, lambda: given.get("sslpassword", ""))
    except ssl.SSLError as error:
        problem = (
            f"sslkey {key} doesn't belong to sslcert {certificate}"
            if error.reason == "KEY_VALUES_MISMATCH"
            else f"sslkey {key} can't be read, maybe for want of the right sslpassword"
        )
        raise ConfigError(problem) from error


def _load(context: ssl.SSLContext, parameter: str, file: str) -> None:
    _look_into(parameter, file, "X509 CRL" if parameter == "sslcrl" else "CERTIFICATE")
    try:
        context.load_verify_locations(cafile=file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"{parameter} {file} contains something other than certificates"
        ) from error


def _look_into(parameter: str, file: str, what: str) -> None:
    """Make sure that a file is there, and has something of that kind in PEM."""
    try:
        text = Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{parameter} {file} can't be read: {error.strerror}") from error
    if f"{what}-----".encode() not in text:
        raise ConfigError(f"{parameter} {file} holds no {what.lower()} in PEM")


def _of_home(name: str) -> str:
    """Return the path of a file where libpq looks for it, or nothing where there is none."""
    try:
        path = Path.home() / ".postgresql" / name
        return str(path) if path.is_file() else ""
    except (RuntimeError, OSError):  # no home, or a closed one
        return ""
