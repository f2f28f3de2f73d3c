"""Connection strings as hosting companies and libraries print them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from pgoutbox.config import conninfo
from pgoutbox.config.conninfo import KNOWN, PARAMETERS, ConninfoError, Unreadable, read
from pgoutbox.config.load import load
from pgoutbox.config.settings import DatabaseConfig
from pgoutbox.database.sessions import SESSION_SETTINGS
from pgoutbox.database.target import Place, Target, target_of
from pgoutbox.errors import ConfigError

SECRET = "s3cr3t-of-mine"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without any of libpq's files."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def target(dsn: str, **environment: str) -> Target:
    return target_of(DatabaseConfig(dsn=dsn), environment)


def refusal(dsn: str, **environment: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        target(dsn, **environment)
    assert SECRET not in str(caught.value)
    return caught.value


WHOLE = {"user": "joe", "password": "pw", "host": "h", "port": "5433", "dbname": "shop"}


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("postgresql://joe:pw@h:5433/shop", WHOLE),
        ("postgres://joe:pw@h:5433/shop", WHOLE),
        ("postgresql+asyncpg://joe:pw@h:5433/shop", WHOLE),
        ("postgresql+psycopg://joe:pw@h:5433/shop", WHOLE),
        ("postgis://joe:pw@h:5433/shop", WHOLE),
        ("host=h port=5433 user=joe password=pw dbname=shop", WHOLE),
        ("postgresql://other@nowhere:1/x?host=h&port=5433&user=joe&password=pw&dbname=shop", WHOLE),
        ("postgresql://joe:p%40w%2F@h", {"user": "joe", "password": "p@w/", "host": "h"}),
        ("postgresql://joe:p#w@h", {"user": "joe", "password": "p#w", "host": "h"}),
        ("postgresql://?password=p@w+x&host=h", {"password": "p@w+x", "host": "h"}),
        ("postgresql://[::1]:5/a%20b", {"host": "::1", "port": "5", "dbname": "a b"}),
        ("postgresql://a:1,b,[::1]:3/x", {"host": "a,b,::1", "port": "1,,3", "dbname": "x"}),
        ("postgresql://%2Frun%2Fpg/db", {"host": "/run/pg", "dbname": "db"}),
        (
            "postgresql://joe:pw@localhost/db?host=/cloudsql/project:region:shop",
            {
                "user": "joe",
                "password": "pw",
                "host": "/cloudsql/project:region:shop",
                "dbname": "db",
            },
        ),
        (
            "postgresql+pg8000:///db?unix_sock=/cloudsql/p:r:i/.s.PGSQL.5432",
            {"host": "/cloudsql/p:r:i", "dbname": "db"},
        ),
        ("postgresql://h/?ssl=true", {"host": "h", "sslmode": "require"}),
        ("postgresql+asyncpg://h/?ssl=verify-full", {"host": "h", "sslmode": "verify-full"}),
        ("postgresql://h?database=db", {"host": "h", "dbname": "db"}),
        ("postgresql://", {}),
    ],
)
def test_every_form_is_read(text: str, parameters: dict[str, str]) -> None:
    assert parameters == read(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jdbc:postgresql://h/db?user=joe&password=pw", "is a JDBC URL; write it as postgresql://"),
        ("r2dbc:postgresql://h/db", "is an R2DBC URL"),
        ("prisma+postgres://accelerate.example/?api_key=x", "is a URL of Prisma's own service"),
        ("Host=h;Username=joe;Password=pw", "is an ADO.NET connection string"),
        ("mysql://h/db", "must be a URL such as postgresql://"),
        ("postgresql:/h/db", "must be a URL such as postgresql://"),
        ("host=h sslmod=require", "an unknown parameter sslmod (did you mean sslmode?)"),
        ("postgresql://h?keepalive=1", "an unknown parameter keepalive (did you mean keepalives?)"),
        ("postgresql://h?nonsense=1", "has an unknown parameter nonsense"),
        ("postgresql://h?gssencmode=require", "has gssencmode, which isn't possible: the driver"),
        ("postgresql://h?replication=database", "replication, which isn't possible: pgoutbox"),
        ("postgresql://h?a=1&b=2", "an unknown parameter a and an unknown parameter b"),
    ],
)
def test_what_cant_be_taken_is_named(text: str, said: str) -> None:
    with pytest.raises(ConninfoError) as caught:
        read(text)

    assert said in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "password",
    ["p@{}", "1/{}", "1/@{}", "p/{}", "p?{}", "p?{}=x", "5?a={}"],
)
def test_a_password_that_hides_the_host_is_hinted_at(password: str) -> None:
    text = f"postgresql://localhost:{password.format(SECRET)}@h/db"

    with pytest.raises(Unreadable):
        read(text)

    assert refusal(text).hint == conninfo.ENCODE
    with pytest.raises(ConfigError) as caught:
        load({"dsn": text}, {})
    assert str(caught.value) == f"--dsn can't be read. {conninfo.ENCODE}"


NEON = "sslmode=require&channel_binding=require"


@pytest.mark.parametrize(
    ("query", "notes"),
    [
        ("", []),
        ("schema=public", ["no effect in pgoutbox: schema"]),
        (
            "pgbouncer=true&connection_limit=1",
            ["no effect in pgoutbox: pgbouncer, connection_limit"],
        ),
        ("application_name=shop", ["no effect in pgoutbox: application_name"]),
        ("keepalives=1&gssencmode=prefer&sslcompression=0&client_encoding=utf8", []),
        ("keepalives=0&sslcompression=1", ["no effect in pgoutbox: keepalives, sslcompression"]),
        ("channel_binding=prefer&sslcertmode=allow&target_session_attrs=read-write", []),
        ("sslmode=verify-full&channel_binding=require", []),
        ("sslmode=verify-full&require_auth=scram-sha-256", []),
        (
            NEON,
            [
                "channel_binding=require: the driver can't bind to the channel, so the server's"
                " certificate is verified instead, as with sslmode=verify-full"
            ],
        ),
    ],
)
def test_what_has_no_effect_is_named_in_one_line(query: str, notes: list[str]) -> None:
    assert notes == list(target(f"postgresql://h/db?{query}").notes)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sslmode=disable&channel_binding=require", "channel_binding=require needs TLS"),
        ("host=/run&channel_binding=require", "channel_binding=require needs TLS"),
        ("require_auth=scram-sha-256", "require_auth can't be honoured"),
        ("sslmode=often", "sslmode often, which is none of disable"),
        ("sslnegotiation=direct", "sslnegotiation=direct needs sslmode=require"),
        ("ssl_min_protocol_version=TLSv7", "TLSv7 is none of"),
        ("hostaddr=10.0.0.1&sslmode=verify-full", "has host and hostaddr"),
        ("target_session_attrs=best", "target_session_attrs best is none of"),
        ("connect_timeout=soon", "connect_timeout is no number"),
        (f"port={SECRET}", "has a port that is no number"),
        ("port=1,2", "has 1 hosts and 2 ports"),
        ("service=nowhere", "there is no service nowhere in"),
    ],
)
def test_what_cant_be_had_is_refused(query: str, said: str) -> None:
    assert said in str(refusal(f"postgresql://h/db?{query}"))


def test_channel_binding_is_made_up_for_by_verifying() -> None:
    (context,) = target(f"postgresql://h/db?{NEON}").tls.attempts

    assert context is not None
    assert context.check_hostname


def test_several_hosts_have_a_port_each_or_one_for_all() -> None:
    assert target("postgresql://a:1,b,[::1]:3/x").places == (
        Place("a", 1),
        Place("b", 5432),
        Place("::1", 3),
    )
    assert target("host=a,b port=7").places == (Place("a", 7), Place("b", 7))
    assert str(Place("::1", 3)) == "[::1]:3"
    assert str(Place("/cloudsql/p:r:i", 3)) == "/cloudsql/p:r:i:3"


def test_libpqs_variables_fill_up_what_is_missing() -> None:
    found = target(
        "postgresql:///shop",
        PGHOST="h",
        PGPORT="7",
        PGUSER="joe",
        PGDATABASE="other",
        PGPASSWORD=SECRET,
        PGCONNECT_TIMEOUT="3",
        PGAPPNAME="psql",
        PGGSSENCMODE="prefer",
    )

    assert (found.places, found.database, found.user) == ((Place("h", 7),), "shop", "joe")
    assert (found.password, found.timeout, found.notes) == (SECRET, 3.0, ())
    assert SECRET not in repr(found)


def test_a_variable_that_cant_be_kept_is_refused() -> None:
    assert "PGGSSENCMODE: the driver can't" in str(
        refusal("postgresql://h", PGGSSENCMODE="require")
    )
    assert "PGCHANNELBINDING" not in str(refusal("host=/run", PGCHANNELBINDING="require"))


def test_a_service_comes_before_the_variables_and_after_the_dsn(home: Path) -> None:
    (home / ".pg_service.conf").write_text(
        "# ours\n[shop]\nhost=of-service\nport=7\npassword=100%\nkeepalives_idle=5\n"
        "[wrong]\nhots=x\n"
    )

    found = target("postgresql://h", PGSERVICE="shop", PGPORT="8", PGUSER="joe")
    assert (found.places, found.password) == ((Place("h", 7),), "100%")
    assert found.notes == ("no effect in pgoutbox: keepalives_idle",)
    assert target("service=shop", PGHOST="of-variable").places == (Place("of-service", 7),)

    assert "unknown parameter hots (did you mean host?)" in str(refusal("service=wrong"))


def test_a_service_file_may_be_named(home: Path) -> None:
    file = home / "services"
    file.write_text("[shop]\nhost=a,b\n")

    for dsn in (
        f"service=shop servicefile={file}",
        f"postgresql:///?service=shop&servicefile={file}",
    ):
        assert [place.host for place in target(dsn).places] == ["a", "b"]
    assert target("service=shop", PGSERVICEFILE=str(file)).places[0].host == "a"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key."""
    issued = trustme.CA().issue_cert("client")
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    return certificate, key


@pytest.mark.parametrize("parameter", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
def test_a_file_that_is_missing_or_no_pem_is_named(
    pair: tuple[Path, Path], tmp_path: Path, parameter: str
) -> None:
    certificate, key = pair
    empty = tmp_path / "empty"
    empty.write_text("-----BEGIN NOTHING-----")
    files = {"sslrootcert": certificate, "sslcert": certificate, "sslkey": key}

    def asked_for(file: Path) -> str:
        given = files | {parameter: file}
        return (
            f"postgresql://h?sslmode=verify-full&{'&'.join(f'{k}={v}' for k, v in given.items())}"
        )

    missing = tmp_path / "missing"
    said = str(refusal(asked_for(missing)))
    assert said == f"{parameter} {missing} can't be read: No such file or directory"
    assert str(refusal(asked_for(empty))).startswith(f"{parameter} {empty} holds no ")


def test_a_key_of_another_certificate_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    trustme.CA().issue_cert("other").private_key_pem.write_to_path(str(other))

    said = str(refusal(f"postgresql://h?sslmode=require&sslcert={pair[0]}&sslkey={other}"))

    assert said == f"sslkey {other} doesn't belong to sslcert {pair[0]}"


def test_the_certificates_of_the_home_are_taken(pair: tuple[Path, Path], home: Path) -> None:
    folder = home / ".postgresql"
    folder.mkdir()
    (folder / "root.crt").write_bytes(pair[0].read_bytes())
    (folder / "postgresql.crt").write_text("no certificate")

    assert "postgresql.crt holds no certificate" in str(refusal("postgresql://h"))
    (folder / "postgresql.crt").unlink()
    (context,) = target("postgresql://h?sslmode=require").tls.attempts
    assert context is not None
    assert len(context.get_ca_certs()) <= 1
    assert context.verify_mode.name == "CERT_REQUIRED"
    (context,) = target("postgresql://h?sslmode=no-verify").tls.attempts
    assert context is not None
    assert context.verify_mode.name == "CERT_NONE"


def test_settings_that_are_dropped_are_those_that_a_session_makes() -> None:
    ours = {name.lower() for name in SESSION_SETTINGS}
    own = [one.name for one in PARAMETERS if "settings of its own" in one.remark]

    assert own
    assert {name.lower() for name in own} <= ours


def test_each_parameter_has_one_fate_and_a_reason_where_it_isnt_honoured() -> None:
    assert len(KNOWN) == len(PARAMETERS)
    assert all(one.remark for one in PARAMETERS if one.fate != "honoured")
