"""The TCP ports of one run, all of them a fixed distance from the first."""

import socket
from dataclasses import dataclass

from dev.problems import DevProblem

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Ports:
    """Ports by what listens there. `base` 7070 gives the services their usual ones."""

    base: int

    @property
    def sidecar(self) -> int:
        return self.base

    @property
    def sidecar_ops(self) -> int:
        return self.base + 1

    @property
    def central(self) -> int:
        return self.base + 10

    @property
    def central_ops(self) -> int:
        return self.base + 11

    @property
    def postgres(self) -> int:
        return self.base + 20

    @property
    def slow_central(self) -> int:
        """Leads to central by way of the added round trip."""
        return self.base + 21

    @property
    def slow_postgres(self) -> int:
        """Leads to Postgres by way of the added round trip."""
        return self.base + 22

    def refuse_taken(self, *, postgres: bool, latency: bool) -> None:
        """DevProblem naming every port of this run that something else listens on."""
        wanted = {
            "the sidecar": self.sidecar,
            "the sidecar's ops listener": self.sidecar_ops,
            "central": self.central,
            "central's ops listener": self.central_ops,
        }
        if postgres:
            wanted["Postgres"] = self.postgres
        if latency:
            wanted["the added round trip to central"] = self.slow_central
            wanted["the added round trip to Postgres"] = self.slow_postgres
        taken = [f"port {port} ({what})" for what, port in wanted.items() if not is_free(port)]
        if taken:
            verb = "is" if len(taken) == 1 else "are"
            raise DevProblem(
                f"{', '.join(taken).capitalize()} {verb} taken by another process: "
                "end it, or choose other ports with --port-base."
            )


def is_free(port: int) -> bool:
    """Could a server listen on this port of the loopback address?"""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
