"""What an attacker sends, byte for byte, and what the processes under attack show of it."""

import json
import os
import secrets
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

import yaml

from dev.ready import Ready
from tests.integration.central.signing import SigningKey

BATCHES = "/v1/batches"
MIB = 2**20
TIMEOUT_S = 20.0
IDLE_WINDOW_S, IDLE_SHARE = 1.0, 0.1
"""A process that takes less of a core for so long has nothing left to do for an attacker."""
UNITS = {"Ki": 2**10, "Mi": MIB, "Gi": 2**30}
VALUES = Path(__file__).parents[2] / "helm/values.yaml"


def head(method: str, target: str, headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """A request's head. `headers` replace the local Host."""
    lines = [f"{name}: {value}" for name, value in {"Host": "localhost", **headers}.items()]
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1")


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    return socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S)


def send_and_leave(url: str, sent: bytes) -> None:
    """Sends the bytes and aborts the connection, without reading a response."""
    with connect(url) as line:
        line.sendall(sent)
        # A linger of zero seconds: close() sends a reset.
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def exchange(url: str, sent: bytes) -> bytes:
    """All that the server returns until it closes, or until its response is complete."""
    with connect(url) as line:
        line.sendall(sent)
        received = b""
        while not _is_complete(received):
            try:
                data = line.recv(65536)
            except ConnectionResetError:
                break
            if not data:
                break
            received += data
    return received


def _is_complete(response: bytes) -> bool:
    top, end, body = response.partition(b"\r\n\r\n")
    if not end:
        return False
    for line in top.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return False


def status_of(response: bytes) -> int:
    """Zero if the connection ended without a response."""
    return int(response.split(b" ", 2)[1]) if response else 0


@dataclass
class Source:
    """A key that calls central itself, as any program in the pod can."""

    url: str
    key: SigningKey = field(default_factory=SigningKey)
    keys: "count[int]" = field(default_factory=count)
    epoch: str = field(default_factory=lambda: secrets.token_hex(16))

    def post(self, target: str, body: bytes, token: str | None = None) -> int:
        key = f"{self.epoch}-{next(self.keys)}" if token is not None else None
        headers = self.key.headers("POST", target, body, token=token, idempotency_key=key)
        headers["Content-Length"] = str(len(body))
        return status_of(exchange(self.url, head("POST", target, headers) + body))

    def bind(self, ready: Ready) -> None:
        """By a run of its own, with a token that every program of the unit sees."""
        run = {
            "workflow_id": ready["workflow_id"],
            "computing_unit_id": ready["computing_unit_id"],
            "environment_version": "x",
        }
        token = ready["users"]["owner"]["token"]
        assert self.post("/v1/executions", json.dumps(run).encode(), token) == 201

    def batch(self, number: int, entries: bytes, digest: str = "0" * 64) -> bytes:
        fields = {
            "wire": 1, "epoch": self.epoch, "batch": number, "digest": digest, "sent_at_ms": 0,
        }  # fmt: skip
        return json.dumps(fields).encode()[:-1] + b', "entries": [' + entries + b"]}"


def chart_limit_bytes(role: str) -> int:
    """The memory limit that the chart gives to the container of this role."""
    values = yaml.safe_load(VALUES.read_text())
    sidecar, central = values["sidecar"]["resources"], values["central"]["resources"]["limits"]
    text: str = {"sidecar": sidecar, "central": central}[role]["memory"]
    return int(text[:-2]) * UNITS[text[-2:]]


def peak_bytes(ready: Ready, role: str) -> int:
    """The largest resident size of the process since `reset_peak`."""
    status = Path(f"/proc/{ready['processes'][role]['pid']}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def cpu_s(ready: Ready, role: str) -> float:
    """The processor time that the process has used."""
    stat = Path(f"/proc/{ready['processes'][role]['pid']}/stat").read_text()
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def busy_s(ready: Ready, role: str, limit_s: float) -> float:
    """How long the process goes on working, `limit_s` at most."""
    started_at, window = time.monotonic(), threading.Event()
    while time.monotonic() < started_at + limit_s:
        used_s = cpu_s(ready, role)
        window.wait(IDLE_WINDOW_S)
        if cpu_s(ready, role) - used_s < IDLE_SHARE * IDLE_WINDOW_S:
            return time.monotonic() - started_at - IDLE_WINDOW_S
    return limit_s


def reset_peak(ready: Ready, role: str) -> None:
    Path(f"/proc/{ready['processes'][role]['pid']}/clear_refs").write_text("5")


@dataclass
class Probes:
    """Response times of a GET that is repeated during an attack."""

    seconds: list[float] = field(default_factory=list)
    failures: int = 0

    @property
    def longest_s(self) -> float:
        return max(self.seconds, default=0.0)


@contextmanager
def probing(url: str, period_s: float = 0.02) -> Iterator[Probes]:
    """Calls the URL again and again during the block."""
    probes, stop = Probes(), threading.Event()

    def probe() -> None:
        while not stop.wait(period_s):
            started_at = time.monotonic()
            try:
                with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310
                    response.read()
            except OSError:
                probes.failures += 1
            probes.seconds.append(time.monotonic() - started_at)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield probes
    finally:
        stop.set()
        thread.join()
