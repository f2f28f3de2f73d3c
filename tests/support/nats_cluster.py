"""Three nats-servers that form a cluster, and the network between them."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

from pgoutbox.demo.nats_server import NatsServer
from pgoutbox.demo.process import free_port
from tests.support.proxy import Proxy, proxy
from tests.support.waiting import unique

if TYPE_CHECKING:
    from tests.conftest import Servers


class Network:
    """Three servers' ways to one another, each through a proxy or direct."""

    def __init__(self) -> None:
        self.ports = [free_port() for _ in range(3)]
        self._proxies: dict[tuple[int, int], Proxy] = {}

    async def interpose(self, stack: contextlib.AsyncExitStack) -> None:
        """Put a proxy on the way from each server to each other one."""
        for ends in itertools.permutations(range(3), 2):
            self._proxies[ends] = await stack.enter_async_context(proxy(self.ports[ends[1]]))

    def routes(self, server: int) -> list[int]:
        """Return the ports at which a server finds the others."""
        others = [other for other in range(3) if other != server]
        return [
            self._proxies[server, other].port if self._proxies else self.ports[other]
            for other in others
        ]

    def cut_off(self, server: int) -> None:
        """Part a server from the others."""
        for ends, between in self._proxies.items():
            if server in ends:
                between.stall()
                between.cut()

    def mend(self) -> None:
        """Let all of them meet again."""
        for between in self._proxies.values():
            between.flow()


def start_cluster(servers: Servers, network: Network) -> list[NatsServer]:
    """Start three servers that form a cluster with JetStream."""
    name = unique("c")
    started = []
    for number, port in enumerate(network.ports):
        routes = ", ".join(f'"nats://127.0.0.1:{route}"' for route in network.routes(number))
        server = servers.nats(
            f"server_name: {name}-{number}\n"
            f'cluster {{ name: {name}, listen: "127.0.0.1:{port}", routes: [{routes}] }}'
        )
        started.append(server)
    return started
