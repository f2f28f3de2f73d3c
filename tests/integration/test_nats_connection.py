"""Connecting to real nats-servers: credentials, TLS, and what is said where that fails."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from pgoutbox.config.settings import NatsConfig
from pgoutbox.demo.nats_server import NatsServer
from pgoutbox.demo.process import free_port
from pgoutbox.errors import ConfigError, PublishError
from pgoutbox.messages.event import Message
from pgoutbox.nats.connect import connect
from pgoutbox.nats.credentials import check_files
from tests.conftest import Servers
from tests.support.commands import pgoutbox
from tests.support.nats_identities import Identity, Operator
from tests.support.settings import NatsSettings, nats_settings

ADDRESS = "127.0.0.1"
EVENT = Message("wal_listener.public_users", "1", b"{}")
USER = 'authorization: {user: "shop", password: "p@ss:word/%"}'
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def config_of(server: NatsServer | str, **settings: object) -> NatsSettings:
    url = server if isinstance(server, str) else server.url
    return nats_settings(url, **settings)


def with_user(server: NatsServer, user: str) -> str:
    return server.url.replace("://", f"://{user}@")


async def publishes(config: NatsSettings) -> str:
    """Publish an event, and return which server it went to."""
    async with connect(*config) as publisher:
        await publisher.publish([EVENT])
        return str(publisher.description["server"])


async def refusal(config: NatsSettings) -> PublishError:
    """Return why the connection fails: in one sentence, with no secret in it."""
    with pytest.raises(PublishError) as refused:
        await publishes(config)
    told = f"{refused.value} {refused.value.hint}"
    assert "\n" not in told
    assert "s3cret" not in told
    return refused.value


async def test_any_server_that_is_up_is_enough_and_is_named(servers: Servers) -> None:
    server = servers.nats("server_name: warehouse")
    urls = [f"nats://127.0.0.1:{free_port()}", server.url, "nats://no-such-host.invalid:4222"]
    for _ in range(3):
        assert await publishes(config_of(",".join(urls))) == f"{ADDRESS}:{server.port} (warehouse)"


async def test_each_server_is_named_with_its_own_reason() -> None:
    down = f"127.0.0.1:{free_port()}"
    error = await refusal(config_of(f"nats://{down},nats://a:s3cret@no-such-host.invalid:1"))
    assert f"NATS at {down} refused the connection: nothing is listening there" in str(error)
    assert "NATS at no-such-host.invalid:1 can't be found" in str(error)


async def test_user_and_password_come_from_the_settings_or_the_url(servers: Servers) -> None:
    server = servers.nats(USER)
    await publishes(config_of(server, user="shop", password="p@ss:word/%"))
    encoded = with_user(server, "shop:p%40ss%3Aword%2F%25")
    await publishes(config_of(encoded))
    await publishes(config_of(encoded, user="another", password="s3cret"))


async def test_token_comes_from_the_settings_or_the_url(servers: Servers) -> None:
    server = servers.nats('authorization: {token: "t0ken/"}')
    await publishes(config_of(server, token="t0ken/"))
    await publishes(config_of(with_user(server, "t0ken%2F")))


async def test_server_that_refuses_a_user_is_worth_another_try(servers: Servers) -> None:
    server = servers.nats(USER)
    for config in (
        config_of(server),
        config_of(server, user="shop", password="s3cret"),
        config_of(server, token="s3cret"),
        config_of(with_user(server, "shop:s3cret")),
    ):
        error = await refusal(config)
        assert str(error) == f"NATS at {ADDRESS}:{server.port} rejected the credentials"
        assert "user and password, or the token" in str(error.hint)


async def test_nkey_proves_who_we_are(servers: Servers, tmp_path: Path) -> None:
    ours, another = Identity(), Identity()
    server = servers.nats(f"authorization: {{users: [{{nkey: {ours.public}}}]}}")
    seed = tmp_path / "relay.nk"
    seed.write_text(f"{ours.seed}\n")
    await publishes(config_of(server, nkey=str(seed)))

    seed.write_text(another.seed)
    error = await refusal(config_of(server, nkey=str(seed)))
    assert "rejected the credentials" in str(error)
    assert "--nats-nkey" in str(error.hint)


async def test_credentials_file_proves_who_we_are(servers: Servers, tmp_path: Path) -> None:
    operator = Operator()
    server = servers.nats(operator.server_config)
    good = operator.credentials(tmp_path / "relay.creds")
    await publishes(config_of(server, creds=str(good)))
    good.write_bytes(good.read_bytes().replace(b"\n", b"\r\n"))
    await publishes(config_of(server, creds=str(good)))

    stranger = Operator().credentials(tmp_path / "stranger.creds")
    expired = operator.credentials(tmp_path / "expired.creds", expires=int(LONG_AGO.timestamp()))
    for file in (stranger, expired):
        error = await refusal(config_of(server, creds=str(file)))
        assert "rejected the credentials" in str(error)
        assert "Is the JWT in --nats-creds still valid" in str(error.hint)


@dataclass(frozen=True)
class Papers:
    """A CA, and the files of what it and another one have signed."""

    folder: Path

    def __post_init__(self) -> None:
        ours, foreign = trustme.CA(), trustme.CA()
        ours.cert_pem.write_to_path(self.file("ca.pem"))
        foreign.cert_pem.write_to_path(self.file("foreign-ca.pem"))
        self._write("server", ours.issue_cert(ADDRESS))
        self._write("elsewhere", ours.issue_cert("elsewhere.invalid"))
        self._write("expired-server", self._expired(ours, ADDRESS))
        self._write("client", ours.issue_cert("relay@shop.invalid"))
        self._write("expired-client", self._expired(ours, "relay@shop.invalid"))
        self._write("foreign-client", foreign.issue_cert("relay@shop.invalid"))

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def server_config(self, name: str = "server", more: str = "") -> str:
        return (
            f'tls: {{cert_file: "{self.file(name)}.pem", key_file: "{self.file(name)}.key",'
            f' ca_file: "{self.file("ca.pem")}", {more}}}'
        )

    def client(self, name: str = "client") -> dict[str, str]:
        return {"client_cert": self.file(f"{name}.pem"), "client_key": self.file(f"{name}.key")}

    @staticmethod
    def _expired(ca: trustme.CA, name: str) -> trustme.LeafCert:
        return ca.issue_cert(name, not_before=datetime(2019, 1, 1, tzinfo=UTC), not_after=LONG_AGO)

    def _write(self, name: str, leaf: trustme.LeafCert) -> None:
        leaf.private_key_pem.write_to_path(self.file(f"{name}.key"))
        leaf.cert_chain_pems[0].write_to_path(self.file(f"{name}.pem"))


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


async def test_server_is_trusted_for_its_ca(servers: Servers, papers: Papers) -> None:
    server = servers.nats(papers.server_config())
    ca = papers.file("ca.pem")
    await publishes(config_of(server, ca_cert=ca))
    await publishes(config_of(server.url.replace("nats:", "tls:"), ca_cert=ca, enable_tls=True))

    for settings in ({}, {"ca_cert": papers.file("foreign-ca.pem")}):
        error = await refusal(config_of(server, **settings))
        assert "untrusted certificate: unable to get local issuer certificate" in str(error)
        assert "--nats-ca-cert" in str(error.hint)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("expired-server", "certificate has expired"),
        ("elsewhere", "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ],
)
async def test_server_with_a_wrong_certificate_is_not_trusted(
    servers: Servers, papers: Papers, name: str, reason: str
) -> None:
    server = servers.nats(papers.server_config(name))
    error = await refusal(config_of(server, ca_cert=papers.file("ca.pem")))
    assert f"has an untrusted certificate: {reason}" in str(error)


async def test_our_certificate_proves_who_we_are(servers: Servers, papers: Papers) -> None:
    server = servers.nats(
        papers.server_config(more="verify_and_map: true")
        + '\nauthorization: {users: [{user: "relay@shop.invalid"}]}'
    )
    ca = papers.file("ca.pem")
    await publishes(config_of(server, ca_cert=ca, **papers.client()))

    reasons = {
        "certificate required": {},
        "certificate expired": papers.client("expired-client"),
        "unknown ca": papers.client("foreign-client"),
    }
    for reason, pair in reasons.items():
        error = await refusal(config_of(server, ca_cert=ca, **pair))
        assert f"rejected our certificate: {reason}" in str(error)
        assert "--nats-client-cert" in str(error.hint)


async def test_server_without_tls_is_refused_before_it_gets_the_password(
    servers: Servers, papers: Papers
) -> None:
    server = servers.nats("trace: true")
    url = with_user(server, "shop:s3cret")
    for config in (
        config_of(url, enable_tls=True),
        config_of(url.replace("nats:", "tls:")),
        config_of(url, ca_cert=papers.file("ca.pem")),
    ):
        error = await refusal(config)
        assert "doesn't offer TLS, which is required" in str(error)
    await publishes(config_of(url))
    assert server.log.read_text().count("[CONNECT ") == 1


async def test_tls_that_is_only_offered_is_used_where_we_insist(
    servers: Servers, papers: Papers
) -> None:
    server = servers.nats(papers.server_config() + "\nallow_non_tls: true")
    await publishes(config_of(server))
    await publishes(config_of(server, ca_cert=papers.file("ca.pem")))
    error = await refusal(config_of(server, ca_cert=papers.file("foreign-ca.pem")))
    assert "untrusted certificate" in str(error)


Files = Callable[[Path, Papers], dict[str, str]]


def _nkey(text: str) -> Files:
    def write(folder: Path, _: Papers) -> dict[str, str]:
        (folder / "relay.nk").write_text(text)
        return {"nkey": str(folder / "relay.nk")}

    return write


def _creds(text: str) -> Files:
    def write(folder: Path, _: Papers) -> dict[str, str]:
        (folder / "relay.creds").write_text(text)
        return {"creds": str(folder / "relay.creds")}

    return write


def _encrypted(folder: Path, papers: Papers) -> dict[str, str]:
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(Path(papers.file("client.key")).read_bytes(), None)
    (folder / "encrypted.key").write_bytes(
        key.private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"s3cret")
        )
    )
    return papers.client() | {"client_key": str(folder / "encrypted.key")}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (lambda *_: {"nkey": "/no/such.nk"}, "nkey file /no/such.nk can't be read: No such file"),
        (lambda folder, _: {"nkey": str(folder)}, "can't be read: Is a directory"),
        (_nkey("SUs3cret"), "relay.nk contains no user seed of an nkey"),
        (_nkey(Identity(0).seed), "relay.nk contains no user seed of an nkey"),
        (lambda *_: {"creds": "/no/such.creds"}, "credentials file /no/such.creds can't be read"),
        (_creds("s3cret"), "relay.creds contains no user JWT"),
        (
            _creds("-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\ns3cret"),
            "relay.creds contains no user seed",
        ),
        (lambda *_: {"ca_cert": "/no/ca.pem"}, "CA certificate /no/ca.pem can't be read"),
        (lambda _, papers: {"ca_cert": papers.file("client.key")}, "contains no PEM certificate"),
        (
            lambda _, papers: papers.client() | {"client_key": "/no/such.key"},
            "client key /no/such.key can't be read",
        ),
        (
            lambda _, papers: papers.client() | {"client_key": papers.file("server.key")},
            "server.key doesn't belong to the certificate",
        ),
        (
            lambda _, papers: papers.client() | {"client_key": papers.file("ca.pem")},
            "aren't a PEM certificate and its key",
        ),
        (_encrypted, "encrypted.key is encrypted"),
    ],
)
def test_file_that_cannot_be_used_is_a_wrong_setting(
    tmp_path: Path, papers: Papers, files: Files, sentence: str
) -> None:
    with pytest.raises(ConfigError) as wrong:
        check_files(NatsConfig(**files(tmp_path, papers)))  # type: ignore[arg-type]
    told = f"{wrong.value} {wrong.value.hint}"
    assert sentence in told
    assert "s3cret" not in told


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = tmp_path / "relay.nk"
    seed.write_text(Identity().seed)
    monkeypatch.setitem(sys.modules, "nkeys", None)
    with pytest.raises(ConfigError, match="need the package nkeys") as missing:
        check_files(NatsConfig(nkey=str(seed)))
    assert missing.value.hint == "pip install 'pgoutbox[nkeys]'"


def test_relay_does_not_start_with_a_file_that_is_missing() -> None:
    """It needs neither PostgreSQL nor NATS to find that out."""
    done = pgoutbox(
        *("relay", "--dsn", "postgresql://127.0.0.1:1/none", "--nats-creds", "/no/such.creds")
    )
    assert done.returncode == 2
    assert "/no/such.creds can't be read: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


async def test_file_that_goes_while_the_relay_runs_is_worth_another_try(
    servers: Servers, tmp_path: Path
) -> None:
    """Secrets are replaced under running programs, and not always at one stroke."""
    ours = Identity()
    server = servers.nats(f"authorization: {{users: [{{nkey: {ours.public}}}]}}")
    seed = tmp_path / "relay.nk"
    config = config_of(server, nkey=str(seed))
    assert "can't be read" in str(await refusal(config))
    seed.write_text(ours.seed)
    await publishes(config)
