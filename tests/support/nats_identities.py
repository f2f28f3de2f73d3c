"""Who may connect to a NATS server in operator mode: nkeys, and the JWTs that vouch for them.

The format is that of https://github.com/nats-io/jwt, version 2; the real tool is ``nsc``.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from pathlib import Path

import nkeys

_UNLIMITED = dict.fromkeys(
    (
        *("subs", "data", "payload", "imports", "exports", "conn", "leaf"),
        *("mem_storage", "disk_storage", "streams", "consumer"),
    ),
    -1,
) | {"wildcards": True}


class Identity:
    """A key pair; operators sign for accounts, and these for users."""

    def __init__(self, prefix: int = nkeys.PREFIX_BYTE_USER) -> None:
        self.seed = bytes(nkeys.encode_seed(secrets.token_bytes(32), prefix)).decode()
        self._pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self.public = bytes(self._pair.public_key).decode()

    def vouch(self, subject: Identity, claims: dict[str, object], **more: object) -> str:
        """Return a JWT about another identity."""
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        about = {
            "jti": secrets.token_hex(16),
            "iat": int(time.time()) - 100,
            "iss": self.public,
            "name": "test",
            "sub": subject.public,
            "nats": {**claims, "version": 2},
            **more,
        }
        signed = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(about).encode())}"
        return f"{signed}.{_encoded(self._pair.sign(signed.encode()))}"


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Operator:
    """An operator with an account for people and one for the system."""

    def __init__(self) -> None:
        self._operator = Identity(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = Identity(nkeys.PREFIX_BYTE_ACCOUNT)
        self._system = Identity(nkeys.PREFIX_BYTE_ACCOUNT)

    @property
    def server_config(self) -> str:
        """What a server has to have in its configuration."""
        jwt = self._operator.vouch(self._operator, {"type": "operator"})
        limits: dict[str, object] = {"limits": _UNLIMITED, "type": "account"}
        nothing = {**_UNLIMITED, "mem_storage": 0, "disk_storage": 0}
        system: dict[str, object] = {"limits": nothing, "type": "account"}
        return f"""
            operator: {jwt}
            system_account: {self._system.public}
            resolver: MEMORY
            resolver_preload: {{
                {self._account.public}: {self._operator.vouch(self._account, limits)}
                {self._system.public}: {self._operator.vouch(self._system, system)}
            }}
        """

    def credentials(self, file: Path, *, expires: int | None = None) -> Path:
        """Write the credentials file of a new user, as ``nsc generate creds`` does."""
        user = Identity()
        claims = {"type": "user", "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}
        more = {"exp": expires} if expires else {}
        jwt = self._account.vouch(user, claims, **more)
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            "NKEY Seed printed below can be used to sign and prove identity.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n\n"
            "*************************************************************\n"
        )
        return file
