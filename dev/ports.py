"""The TCP ports of one run, at fixed distances from the first."""

import socket
from dataclasses import dataclass

from dev.problems import DevProblem

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Ports:
    """Ports by purpose. With `base` 7070 the services have their usual ones."""

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
    def delayed_central(self) -> int:
        """Forwards to central with the added round trip."""
        return self.base + 21

    @property
    def delayed_postgres(self) -> int:
        """Forwards to Postgres with the added round trip."""
        return self.base + 22

    def check_free(self, *, postgres: bool, latency: bool) -> None:
        """Raise a DevProblem that names every port of this run that is in use."""
        needed = {
            "the sidecar": self.sidecar,
            "the sidecar's ops listener": self.sidecar_ops,
            "central": self.central,
            "central's ops listener": self.central_ops,
        }
        if postgres:
            needed["Postgres"] = self.postgres
        if latency:
            needed["the added round trip to central"] = self.delayed_central
            needed["the added round trip to Postgres"] = self.delayed_postgres
        used = [f"port {port} ({what})" for what, port in needed.items() if not is_free(port)]
        if used:
            verb = "is" if len(used) == 1 else "are"
            raise DevProblem(
                f"{', '.join(used).capitalize()} {verb} used by another process: "
                "end it, or choose other ports with --port-base."
            )


def is_free(port: int) -> bool:
    """Whether a server can listen on this port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port that is free, unless another process takes it first."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
