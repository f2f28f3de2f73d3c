"""Where a database is, and how one gets in: settings, a service file and libpq's variables."""

from __future__ import annotations

import configparser
import getpass
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pgoutbox.config import conninfo
from pgoutbox.config.settings import DatabaseConfig
from pgoutbox.database.tls import Tls, tls_of
from pgoutbox.errors import ConfigError

_DEFAULT_PORT = "5432"
_SOCKET_FOLDERS = ("/run/postgresql", "/var/run/postgresql", "/tmp", "/private/tmp")  # noqa: S108
_SESSION_ATTRS = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")


class Place(NamedTuple):
    """Where a server listens: a host, or the folder of a socket, and a port."""

    host: str
    port: int

    @property
    def is_socket(self) -> bool:
        """Whether it is a socket of this machine."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        is_ipv6 = ":" in self.host and not self.is_socket
        return f"[{self.host}]:{self.port}" if is_ipv6 else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """A database, the servers that may have it, and how to get in.

    ``notes`` say which parameters have no effect here, and what is done otherwise than was asked
    for.
    """

    places: tuple[Place, ...]
    database: str
    user: str
    tls: Tls
    password: str | None = field(default=None, repr=False)
    passfile: str | None = None
    options: str | None = None
    timeout: float | None = None  # seconds for each place
    session_attrs: str = "any"  # libpq's target_session_attrs
    gss: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def arguments(self, place: Place) -> dict[str, Any]:
        """Return what asyncpg needs to know of one place, but for TLS.

        Nothing is left to its own reading of libpq's variables.
        """
        return {
            "host": place.host,
            "port": place.port,
            "user": self.user,
            "password": self.password,
            "passfile": self.passfile,
            "database": self.database,
            "target_session_attrs": "any",
            **self.gss,
        }


def target_of(config: DatabaseConfig, environment: Mapping[str, str] | None = None) -> Target:
    """Return what ``config`` means, filled up from a service and from libpq's variables.

    Raises:
        ConfigError: it can't be read, or asks for what can't be had.
    """
    environment = os.environ if environment is None else environment
    try:
        given = {**_parts(config), **(conninfo.read(config.dsn) if config.dsn else {})}
        variables = conninfo.from_environment(environment)
    except conninfo.ConninfoError as error:
        hint = conninfo.ENCODE if isinstance(error, conninfo.Unreadable) else None
        raise ConfigError(f"the database's address {error}", hint=hint) from error
    service = given.get("service") or variables.get("service")
    if service:
        file = given.get("servicefile") or variables.get("servicefile")
        given = {**_of_service(service, file, environment), **given}
    merged = {**variables, **given}
    mode = merged.get("sslmode")
    if config.enable_tls and mode not in ("require", "verify-ca", "verify-full"):
        merged["sslmode"] = "require"
    return _target(merged, conninfo.dropped(given))


def _target(given: Mapping[str, str], without_effect: list[str]) -> Target:
    places = _places(given)
    tls = tls_of(given, has_socket=any(place.is_socket for place in places))
    if tls.verifies_name and given.get("host") and given.get("hostaddr"):
        raise ConfigError(
            "the database's address has host and hostaddr, and a certificate to be verified",
            hint="Leave out hostaddr: the certificate is for the host's name.",
        )
    attrs = given.get("target_session_attrs", "any")
    if attrs not in _SESSION_ATTRS:
        raise ConfigError(f"target_session_attrs {attrs} is none of {', '.join(_SESSION_ATTRS)}")
    user = given.get("user") or _own_name()
    notes = [f"no effect in pgoutbox: {', '.join(without_effect)}"] if without_effect else []
    return Target(
        places=places,
        database=given.get("dbname") or user,
        user=user,
        tls=tls,
        password=given.get("password"),
        passfile=given.get("passfile"),
        options=given.get("options"),
        timeout=_seconds(given.get("connect_timeout", "0")),
        session_attrs=attrs,
        gss={name: given[name] for name in ("krbsrvname", "gsslib") if name in given},
        notes=(*notes, *tls.notes),
    )


def _parts(config: DatabaseConfig) -> dict[str, str]:
    """Return the parameters that wal-listener's file has instead of a connection string."""
    parts = {
        "host": config.host,
        "port": str(config.port) if config.port else None,
        "dbname": config.name,
        "user": config.user,
        "password": config.password,
        "sslmode": config.ssl_mode,
    }
    return {name: value for name, value in parts.items() if value is not None}


def _of_service(name: str, file: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of a service, from the first file that has it.

    Format and places are those of libpq: https://www.postgresql.org/docs/current/libpq-pgservice
    """
    files = [Path(file)] if file else [Path("~/.pg_service.conf").expanduser()]
    folder = environment.get("PGSYSCONFDIR", "/etc/postgresql-common")
    files.append(Path(folder) / "pg_service.conf")
    for path in files:
        parser = configparser.ConfigParser(
            interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#",)
        )
        try:
            parser.read(path, "utf-8")
        except (configparser.Error, UnicodeError) as error:
            raise ConfigError(f"the service file {path} can't be read") from error
        if name in parser:
            given = dict(parser[name])
            for problem in conninfo.problems_of(given):
                raise ConfigError(f"the service {name} in {path} has {problem}")
            return given
    raise ConfigError(f"there is no service {name} in {' or '.join(map(str, files))}")


def _places(given: Mapping[str, str]) -> tuple[Place, ...]:
    ports = given.get("port", _DEFAULT_PORT).split(",")
    hosts = (given.get("hostaddr") or given.get("host") or "").split(",")
    if len(ports) not in (1, len(hosts)):
        raise ConfigError(f"the database's address has {len(hosts)} hosts and {len(ports)} ports")
    if len(ports) == 1:
        ports *= len(hosts)
    found: list[Place] = []
    for host, port in zip(hosts, ports, strict=True):
        found += _places_of(host.strip(), port.strip() or _DEFAULT_PORT)
    if given.get("load_balance_hosts") == "random":
        random.shuffle(found)
    return tuple(found)


def _places_of(host: str, port: str) -> list[Place]:
    """Return the place of one host, or where a server of this machine may listen."""
    if not host.startswith("/") and host.count(":") == 1:
        host, _, port = host.partition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError("the database's address has a port that is no number from 1 to 65535")
    if host:
        return [Place(host, int(port))]
    sockets = [Place(folder, int(port)) for folder in _SOCKET_FOLDERS]
    there = [one for one in sockets if Path(one.host, f".s.PGSQL.{port}").is_socket()]
    return there[:1] or [Place("localhost", int(port))]


def _seconds(text: str) -> float | None:
    try:
        return float(text) if float(text) > 0 else None
    except ValueError as error:
        raise ConfigError("the database's connect_timeout is no number of seconds") from error


def _own_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise ConfigError(
            "no user is given for the database, and this process has no name of its own",
            hint="Name one in the DSN, or in PGUSER.",
        ) from error
