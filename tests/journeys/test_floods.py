"""Thousands of connections, endless heads or bodies: other clients are still served."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dev.polling import wait_until
from dev.ready import Ready
from tests.journeys.calls import call, create
from tests.journeys.test_guard import exchange

MIB = 2**20
FLOODED = [("sidecar", 640), ("central", 2048), ("sidecar_ops", 64), ("central_ops", 64)]


def memory_bytes(ready: Ready, role: str) -> int:
    status = Path(f"/proc/{ready['processes'][role]['pid']}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


@contextmanager
def connected(url: str, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """`count` connections, each with the same bytes sent, as far as the server reads them."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    with ExitStack() as stack:
        lines = []
        for _ in range(count):
            line = socket.create_connection((address.hostname, address.port), timeout=20)
            lines.append(stack.enter_context(line))
            try:
                line.sendall(sent)
            except OSError:
                continue  # refused or evicted
        yield lines


def count_open(lines: list[socket.socket]) -> int:
    def is_open(line: socket.socket) -> bool:
        line.setblocking(False)
        try:
            while line.recv(65536):
                pass  # a refusal
            return False
        except BlockingIOError:
            return True
        except OSError:
            return False

    return sum(map(is_open, lines))


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v1/token HTTP/1.1\r\nAccept: "], ids=["idle", "begun"]
)
@pytest.mark.parametrize(("listener", "most"), FLOODED)
def test_a_flood_of_connections_does_not_lock_out_other_clients(
    system: Ready, listener: str, most: int, sent: bytes
) -> None:
    owner = system["users"]["owner"]["token"]
    run = f"/v1/executions/{create(system)}"
    url: str = system[listener]  # type: ignore[literal-required]

    with connected(url, most + 200, sent) as lines:
        assert wait_until(lambda: count_open(lines) <= most, 20)
        created = create(system)
        written, _, _ = call(
            system, "PATCH", run, {"status": "COMPLETED"}, token=owner, prefer="wait=20"
        )
        with connected(url, 1, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n") as (line,):
            assert line.recv(9) == b"HTTP/1.1 "

    assert created
    assert written == 200


def test_endless_bodies_use_bounded_memory(system: Ready) -> None:
    owner = system["users"]["owner"]["token"]
    run = f"/v1/executions/{create(system)}"
    head = (
        "{} {} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a.b.c\r\n"
        "Content-Length: {}\r\n\r\n"
    )
    local = head.format("PATCH", run, MIB).encode() + b" " * (MIB - 1)
    batch = head.format("POST", "/v1/batches", 8 * MIB).encode() + b" " * (8 * MIB - 1)
    before = {role: memory_bytes(system, role) for role in ("sidecar", "central")}

    with (
        connected(system["sidecar"], 100, local),
        connected(system["central"], 24, batch),
    ):
        written, _, _ = call(system, "PATCH", run, {"name": "x"}, token=owner, prefer="wait=20")
        grown = {role: memory_bytes(system, role) - size for role, size in before.items()}

    assert written == 200
    assert grown["sidecar"] < 48 * MIB  # of the 100 that were sent
    assert grown["central"] < 96 * MIB  # of 192


def test_endless_heads_are_aborted(system: Ready) -> None:
    before = {role: memory_bytes(system, role) for role in ("sidecar", "central")}
    fat = b"GET /v1/token HTTP/1.1\r\n" + b"".join(
        b"A%d: %b\r\n" % (n, b"x" * 8000) for n in range(100)
    )

    with (
        connected(system["sidecar"], 60, fat) as local,
        connected(system["central"], 60, fat) as far,
    ):
        assert wait_until(lambda: count_open(local) + count_open(far) == 0, 20)
        grown = {role: memory_bytes(system, role) - size for role, size in before.items()}

    assert max(grown.values()) < 32 * MIB  # of 48, which a parser keeps twice


def test_a_busy_connection_survives_a_flood(system: Ready) -> None:
    owner = system["users"]["owner"]["token"]
    run = create(system)
    target = f"/v1/executions/{run}/result-uri?operator_id=op-1&wait=3"
    head = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {owner}\r\n\r\n"

    with (
        connected(system["sidecar"], 1, head.encode()) as (polling,),
        connected(system["sidecar"], 800),
    ):
        polling.settimeout(20)
        response = polling.recv(65536)

    assert response.startswith(b"HTTP/1.1 404 ")
    assert exchange(system, f"GET /v1/executions/{run} HTTP/1.1\nHost: localhost")[0] == 401
