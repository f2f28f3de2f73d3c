"""Connection strings of PostgreSQL: what forms they have, and what becomes of each parameter.

The parameters are libpq's, as PostgreSQL 18 documents them (libpq-connect), and those that other
drivers and hosting companies put into the same strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from pgoutbox.names import suggest

ENCODE = "In a password, characters such as @ : / # ? % must be percent-encoded."


class ConninfoError(ValueError):
    """What is wrong with a connection string, as the end of a sentence; never a value of it."""


class Unreadable(ConninfoError):
    """It has a form that can't be told apart from others, often for a bare @ in the password."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a connection string, and its fate.

    ``same`` are values that ask for what happens anyway, so nothing is said of them. Where the
    fate is "refused", every other value is an error; where it is "dropped", a note.
    """

    name: str
    fate: Literal["honoured", "dropped", "refused"]
    remark: str = ""
    variable: str | None = None  # of the environment; where it counts
    same: tuple[str, ...] = ()


_OWN_SETTING = "a session of pgoutbox has settings of its own"
_NO_POOL = "about another driver's pool or statements"
_KEEPALIVE = (
    "the relay notices a cut connection by asking, and has the server send keepalives of its own"
)
_NO_GSS = "the driver can't encrypt with GSSAPI; insist on TLS with `sslmode` instead"
_OFF = ("0", "false", "off", "no")

PARAMETERS = (
    Parameter("host", "honoured", "names, addresses or folders of sockets, with commas", "PGHOST"),
    Parameter(
        "hostaddr",
        "honoured",
        "connects there; refused beside `host` where the certificate's name is verified",
        "PGHOSTADDR",
    ),
    Parameter("port", "honoured", "one for all hosts, or one for each", "PGPORT"),
    Parameter("dbname", "honoured", "", "PGDATABASE"),
    Parameter("database", "honoured", "the same as `dbname`"),
    Parameter("user", "honoured", "", "PGUSER"),
    Parameter("password", "honoured", "", "PGPASSWORD"),
    Parameter("passfile", "honoured", "else `~/.pgpass`", "PGPASSFILE"),
    Parameter("service", "honoured", "its entry in the service file", "PGSERVICE"),
    Parameter("servicefile", "honoured", "else `~/.pg_service.conf`", "PGSERVICEFILE"),
    Parameter("unix_sock", "honoured", "pg8000's name for the path of a socket"),
    Parameter(
        "options",
        "honoured",
        "goes to the server; `-c` of a setting that a session of pgoutbox makes has no effect",
        "PGOPTIONS",
    ),
    Parameter(
        "connect_timeout",
        "honoured",
        "in seconds, for each host; 15 where it is 0 or missing",
        "PGCONNECT_TIMEOUT",
    ),
    Parameter(
        "target_session_attrs",
        "honoured",
        "for `status`; what writes takes a server that can be written to, whatever this says",
        "PGTARGETSESSIONATTRS",
    ),
    Parameter(
        "load_balance_hosts",
        "honoured",
        "`random` tries the hosts in a random order",
        "PGLOADBALANCEHOSTS",
    ),
    Parameter(
        "sslmode", "honoured", "also node-postgres's `no-verify`: TLS, never verified", "PGSSLMODE"
    ),
    Parameter("ssl", "honoured", "`true` is `sslmode=require`; or a mode, as with SQLAlchemy"),
    Parameter(
        "sslrootcert",
        "honoured",
        "a file in PEM, or `system`; else `~/.postgresql/root.crt`, else the system's",
        "PGSSLROOTCERT",
    ),
    Parameter("sslcert", "honoured", "else `~/.postgresql/postgresql.crt`", "PGSSLCERT"),
    Parameter("sslkey", "honoured", "else `~/.postgresql/postgresql.key`", "PGSSLKEY"),
    Parameter("sslpassword", "honoured", "of the key"),
    Parameter("sslcrl", "honoured", "else `~/.postgresql/root.crl`", "PGSSLCRL"),
    Parameter("sslcrldir", "honoured", "", "PGSSLCRLDIR"),
    Parameter("sslnegotiation", "honoured", "`postgres` or `direct`", "PGSSLNEGOTIATION"),
    Parameter("ssl_min_protocol_version", "honoured", "", "PGSSLMINPROTOCOLVERSION"),
    Parameter("ssl_max_protocol_version", "honoured", "", "PGSSLMAXPROTOCOLVERSION"),
    Parameter(
        "channel_binding",
        "honoured",
        "`require`: the driver can't bind, so TLS is required and the certificate verified instead,"
        " as with `sslmode=verify-full`, and a line says so",
        "PGCHANNELBINDING",
    ),
    Parameter(
        "require_auth",
        "honoured",
        "the driver gives the server what it asks for, so this is taken with"
        " `sslmode=verify-full` or `channel_binding=require` only, which prove who asks",
        "PGREQUIREAUTH",
    ),
    Parameter("krbsrvname", "honoured", "", "PGKRBSRVNAME"),
    Parameter("gsslib", "honoured", "", "PGGSSLIB"),
    Parameter("gssencmode", "refused", _NO_GSS, "PGGSSENCMODE", ("disable", "prefer")),
    Parameter(
        "sslcertmode",
        "refused",
        "whether the server asked for a certificate can't be told",
        "PGSSLCERTMODE",
        ("disable", "allow"),
    ),
    Parameter("requirepeer", "refused", "a socket's owner isn't looked at", "PGREQUIREPEER"),
    Parameter("replication", "refused", "pgoutbox needs no replication slot", None, _OFF),
    Parameter("scram_client_key", "refused", "the driver needs the password itself"),
    Parameter("scram_server_key", "refused", "the driver needs the password itself"),
    *(
        Parameter(f"oauth_{name}", "refused", "the driver can't do OAuth")
        for name in ("issuer", "client_id", "client_secret", "scope")
    ),
    Parameter("role", "refused", "write it as `options=-c%20role=NAME`"),
    Parameter("sslaccept", "refused", "Prisma's: say `sslmode=verify-full` instead", None,
              ("accept_invalid_certs",)),
    Parameter("sslidentity", "refused", "Prisma's: give `sslcert` and `sslkey` in PEM instead"),
    Parameter("application_name", "dropped", "sessions are named `pgoutbox …`, and found by that"),
    Parameter("fallback_application_name", "dropped", "as `application_name`"),
    Parameter("client_encoding", "dropped", "always UTF8", None, ("utf8", "utf-8", "auto")),
    Parameter("gssdelegation", "dropped", "the driver can't delegate", None, _OFF),
    Parameter("keepalives", "dropped", _KEEPALIVE, None, ("1",)),
    *(
        Parameter(name, "dropped", _KEEPALIVE)
        for name in (
            "keepalives_idle",
            "keepalives_interval",
            "keepalives_count",
            "tcp_user_timeout",
        )
    ),
    Parameter("sslcompression", "dropped", "there is none", None, ("0",)),
    Parameter("sslsni", "dropped", "the host's name is always sent", None, ("1",)),
    Parameter("sslkeylogfile", "dropped", "keys are written nowhere"),
    Parameter("min_protocol_version", "dropped", "the driver speaks 3.0", None, ("3.0",)),
    Parameter("max_protocol_version", "dropped", "the driver speaks 3.0", None, ("3.0",)),
    *(
        Parameter(name, "dropped", _OWN_SETTING)
        for name in (
            "search_path",
            "statement_timeout",
            "lock_timeout",
            "idle_in_transaction_session_timeout",
            "TimeZone",
            "timezone",
            "DateStyle",
            "datestyle",
            "IntervalStyle",
            "intervalstyle",
            "extra_float_digits",
        )
    ),
    Parameter("schema", "dropped", "Prisma's and others': tables are named with their schema"),
    Parameter("currentSchema", "dropped", "JDBC's: tables are named with their schema"),
    *(
        Parameter(name, "dropped", _NO_POOL)
        for name in (
            "pgbouncer",
            "connection_limit",
            "pool_timeout",
            "socket_timeout",
            "statement_cache_size",
            "prepared_statement_cache_size",
            "prepared_statements",
            "pool",
            "pool_size",
            "pool_max_conns",
            "pool_min_conns",
            "pool_max_conn_lifetime",
            "pool_max_conn_idle_time",
            "pool_health_check_period",
            "default_query_exec_mode",
            "statement_cache_capacity",
            "description_cache_capacity",
            "binary_parameters",
            "conn_max_age",
            "uselibpqcompat",
            "supa",
            "workaround",
        )
    ),
)  # fmt: skip

KNOWN = {parameter.name: parameter for parameter in PARAMETERS}

# Those of libraries whose URLs are otherwise PostgreSQL's own; a driver may follow after a +.
_SCHEMES = ("postgresql", "postgres", "postgis", "pgsql", "psql", "timescale", "ecto")
_OTHER_KINDS = {
    r"jdbc:": "is a JDBC URL",
    r"r2dbc:": "is an R2DBC URL",
    r"prisma(\+\w+)?://": "is a URL of Prisma's own service",
    r"(host|server)\s*=[^;]*;": "is an ADO.NET connection string",
}
_EXAMPLE = "postgresql://user@localhost:5432/name"
_URL = re.compile(
    r"(?P<scheme>[A-Za-z]\w*)(\+\w+)?://(?P<authority>[^/?]*)(/(?P<path>[^?]*))?(\?(?P<query>.*))?",
    re.DOTALL,
)
_AUTHORITY = re.compile(r"((?P<user>[^:@]*)(:(?P<password>[^@]*))?@)?(?P<hosts>[^@]*)", re.DOTALL)
_HOST = re.compile(r"(?P<host>\[[^\]]*\]|/.*|[^:\[\]]*)(:(?P<port>\d*))?", re.DOTALL)
_KEYWORD = re.compile(r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?=\s|\Z)")


def read(text: str) -> dict[str, str]:
    """Return the parameters of a URL or of libpq's ``keyword=value …``, as they count here.

    Of one that is given twice, the last counts, and in a URL's query it replaces what stands
    before it.

    Raises:
        ConninfoError: it isn't one, or a parameter is unknown or refused.
    """
    for pattern, kind in _OTHER_KINDS.items():
        if re.match(pattern, text, re.IGNORECASE):
            raise ConninfoError(f"{kind}; write it as {_EXAMPLE}")
    if not re.match(r"[\w+.-]+://", text) and _KEYWORD.match(text):
        given = _read_keywords(text)
    else:
        given = _read_url(text)
    if problems := list(problems_of(given)):
        raise ConninfoError(f"has {' and '.join(problems)}")
    return _renamed(given)


def problems_of(given: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with parameters, as the end of a sentence."""
    for name, value in given.items():
        parameter = KNOWN.get(name)
        if parameter is None:
            meant = suggest(name, KNOWN).removeprefix("; ")
            yield f"an unknown parameter {name}" + (f" ({meant})" if meant else "")
        elif parameter.fate == "refused" and not _is_same(parameter, value):
            yield f"{name}, which isn't possible: {parameter.remark.replace('`', '')}"


def dropped(given: Mapping[str, str]) -> list[str]:
    """Return the names of those parameters that have no effect here, and would elsewhere."""
    known = ((KNOWN[name], value) for name, value in given.items())
    return [one.name for one, value in known if one.fate == "dropped" and not _is_same(one, value)]


def from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what libpq's variables say, of those parameters where they count.

    Raises:
        ConninfoError: a variable asks for what is refused.
    """
    given: dict[str, str] = {}
    for parameter in PARAMETERS:
        value = environment.get(parameter.variable or "", "")
        if value:
            for _ in problems_of({parameter.name: value}):
                raise ConninfoError(f"{parameter.variable}: {parameter.remark}")
            given[parameter.name] = value
    return given


def _is_same(parameter: Parameter, value: str) -> bool:
    return not value or value.lower() in parameter.same


def _read_keywords(text: str) -> dict[str, str]:
    if _KEYWORD.sub("", text).strip():
        raise ConninfoError("must be a URL, or keywords and values as libpq has them")
    return {
        found[1]: re.sub(r"\\(.)", r"\1", _unquoted(found[2])) for found in _KEYWORD.finditer(text)
    }


def _unquoted(value: str) -> str:
    return value[1:-1] if value[:1] == "'" else value


def _read_url(text: str) -> dict[str, str]:
    url = _URL.fullmatch(text)
    if url is None or url["scheme"].lower() not in _SCHEMES:
        raise ConninfoError(f"must be a URL such as {_EXAMPLE}")
    authority = _AUTHORITY.fullmatch(url["authority"])
    if authority is None or "@" in (url["path"] or ""):
        raise Unreadable("can't be read")
    hosts, ports = _read_hosts(authority["hosts"])
    before = {
        "user": authority["user"],
        "password": authority["password"],
        "host": hosts,
        "port": ports,
        "dbname": url["path"],
    }
    given = {name: unquote(value) for name, value in before.items() if value}
    return given | _read_query(url["query"] or "", may_be_password=not authority["user"])


def _read_hosts(text: str) -> tuple[str, str]:
    """Return hosts and ports with commas between them, still percent-encoded."""
    hosts: list[str] = []
    ports: list[str] = []
    for part in text.split(","):
        found = _HOST.fullmatch(part)
        if found is None:
            raise Unreadable("can't be read")
        hosts.append(found["host"].strip("[]"))
        ports.append(found["port"] or "")
    return ",".join(hosts) if any(hosts) else "", ",".join(ports) if any(ports) else ""


def _read_query(text: str, *, may_be_password: bool) -> dict[str, str]:
    given: dict[str, str] = {}
    for pair in filter(None, text.split("&")):
        name, equals, value = pair.partition("=")
        is_foreign = name not in KNOWN and may_be_password and "@" in text
        if not equals or is_foreign or not re.fullmatch(r"[\w.-]+", name):
            raise Unreadable("can't be read")
        given[name] = unquote(value)
    return given


def _renamed(given: Mapping[str, str]) -> dict[str, str]:
    """Return libpq's parameters for those that are another's names for them."""
    found = dict(given)
    if name := found.pop("database", ""):
        found["dbname"] = name
    if path := found.pop("unix_sock", ""):
        found["host"] = re.sub(r"/\.s\.PGSQL\.\d+$", "", path)
    if ssl := found.pop("ssl", ""):
        mode = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
        found.setdefault("sslmode", mode.get(ssl.lower(), ssl))
    return found
