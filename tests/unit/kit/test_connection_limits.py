"""At the limit an idle connection of the host with the most is evicted; busy ones never are."""

import asyncio
import json
from typing import Any, cast

import pytest

from kit.http.connection_limits import (
    HEAD_LINE_MAX_BYTES,
    HEAD_MAX_BYTES,
    ConnectionLimiter,
    ConnectionSlot,
    CountedConnection,
)


class Transport(asyncio.Transport):
    """One end of a connection from `host`; None is a unix socket."""

    def __init__(self, host: str | None = "10.0.0.1") -> None:
        super().__init__(None if host is None else {"peername": (host, 4711)})
        self.written = b""
        self.end = ""

    def write(self, data: Any) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return False  # as TLS

    def is_closing(self) -> bool:
        return bool(self.end)

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        self.end = self.end or "closed"

    def abort(self) -> None:
        self.end = "aborted"


class Handler(asyncio.Protocol):
    """A server's protocol."""

    def __init__(self) -> None:
        self.received = b""
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True


def admitted(connections: ConnectionLimiter, *hosts: str | None) -> list[ConnectionSlot]:
    slots = [connections.admit(Transport(host)) for host in hosts]
    assert None not in slots
    return cast("list[ConnectionSlot]", slots)


def ends(slots: list[ConnectionSlot]) -> list[str]:
    return [cast("Transport", slot.transport).end for slot in slots]


def test_at_the_limit_the_longest_idle_connection_is_evicted() -> None:
    reasons: list[str] = []
    connections = ConnectionLimiter(3, reasons.append)
    slots = admitted(connections, *["a"] * 3)

    connections.touch(slots[0])
    slots += admitted(connections, "a", "a")

    assert ends(slots) == ["", "aborted", "aborted", "", ""]
    assert reasons == ["evicted"] * 2
    assert connections.count == 3


def test_all_local_addresses_and_the_unix_socket_are_one_client() -> None:
    connections = ConnectionLimiter(6)
    used = admitted(connections, "127.0.0.1", "127.0.0.1")
    local = admitted(connections, "127.9.8.7", "::1", "::ffff:127.0.0.2", None)
    for slot in used:
        connections.touch(slot)

    admitted(connections, "127.1.1.1", None, "::1", "127.0.0.3")

    assert ends(used) == ["", ""]
    assert ends(local) == ["aborted"] * 4


def test_a_busy_connection_is_not_evicted_until_it_is_idle_again() -> None:
    connections = ConnectionLimiter(2)
    slots = admitted(connections, "a", "a")

    with connections.busy(slots[0].transport):
        slots += admitted(connections, "a", "a")
        assert ends(slots) == ["", "aborted", "aborted", ""]
    slots += admitted(connections, "a", "a")

    assert ends(slots) == ["aborted", "aborted", "aborted", "aborted", "", ""]


def test_if_all_are_busy_a_new_connection_gets_503() -> None:
    reasons: list[str] = []
    connections = ConnectionLimiter(1, reasons.append)
    (slot,) = admitted(connections, "a")
    refused = Transport("b")

    with connections.busy(slot.transport):
        assert connections.admit(refused) is None
    head, _, body = refused.written.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in head
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert (json.loads(body)["type"], json.loads(body)["status"]) == ("overloaded", 503)
    assert refused.end == "closed"
    assert reasons == ["refused"]
    assert ends([slot]) == [""]


def test_the_host_with_the_most_connections_is_evicted_from() -> None:
    connections = ConnectionLimiter(5)
    quiet = admitted(connections, "quiet", None)
    crowd = admitted(connections, *["crowd"] * 3)

    crowd += admitted(connections, *["crowd"] * 10)
    late = admitted(connections, "late")

    assert ends(quiet + late) == [""] * 3
    assert ends(crowd).count("aborted") == 11
    assert connections.count == 5


def test_a_closed_connection_frees_its_slot_once() -> None:
    connections = ConnectionLimiter(1)
    (closed,) = admitted(connections, "a")

    connections.release(closed)
    connections.release(closed)
    admitted(connections, "a")

    assert ends([closed]) == [""]
    assert connections.count == 1


def test_zero_is_no_limit() -> None:
    connections = ConnectionLimiter()

    assert "aborted" not in ends(admitted(connections, *["a"] * 1000))


def test_a_connection_closed_while_busy_frees_its_slot() -> None:
    connections = ConnectionLimiter(1)
    (slot,) = admitted(connections, "a")

    with connections.busy(slot.transport):
        connections.release(slot)
    admitted(connections, "a")

    assert connections.count == 1
    assert ends([slot]) == [""]


@pytest.mark.parametrize("piece", [1, 1000, HEAD_MAX_BYTES])
@pytest.mark.parametrize(
    ("line", "limit"),
    [(b"x" * 98 + b"\r\n", HEAD_MAX_BYTES), (b"x", HEAD_LINE_MAX_BYTES)],
    ids=["head", "line"],
)
async def test_a_head_above_a_limit_is_431_and_ends_the_connection(
    piece: int, line: bytes, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kit.http.connection_limits.LINGER_S", 0.0)
    handler, transport = Handler(), Transport()
    connection = CountedConnection(ConnectionLimiter(), lambda: handler)
    connection.connection_made(transport)
    sent = line * (limit // len(line) + 2)

    for start in range(0, len(sent), piece):
        connection.data_received(sent[start : start + piece])
    for _ in range(2):
        await asyncio.sleep(0)

    assert transport.written.startswith(b"HTTP/1.1 431 ")
    assert transport.written.count(b"HTTP/1.1 431 ") == 1
    assert b"xx" not in transport.written
    assert transport.end == "aborted"
    assert len(handler.received) <= limit


@pytest.mark.parametrize("piece", [1, 1000, HEAD_MAX_BYTES])
async def test_a_head_at_the_limits_is_accepted(piece: int) -> None:
    handler, transport = Handler(), Transport()
    connection = CountedConnection(ConnectionLimiter(), lambda: handler)
    connection.connection_made(transport)
    line = b"x" * (HEAD_LINE_MAX_BYTES - 2) + b"\r\n"
    sent = (line * 3)[: HEAD_MAX_BYTES - 100] + b"\r\n\r\n" + b"y" * 10_000

    for start in range(0, len(sent), piece):
        connection.data_received(sent[start : start + piece])

    assert handler.received == sent
    assert transport.written == b""


@pytest.mark.parametrize("piece", [1, 3, 4096, 10 * HEAD_MAX_BYTES])
def test_body_bytes_do_not_count_as_head(piece: int) -> None:
    handler, transport = Handler(), Transport()
    connection = CountedConnection(ConnectionLimiter(), lambda: handler)
    connection.connection_made(transport)
    request = b"PUT / HTTP/1.1\r\nContent-Length: 1\r\n\r\n" + b"x" * 3 * HEAD_MAX_BYTES

    for start in range(0, len(request), piece):
        connection.data_received(request[start : start + piece])

    assert transport.end == ""
    assert handler.received == request


def test_a_refused_connection_never_reaches_the_server() -> None:
    connections, handlers = ConnectionLimiter(1), list[Handler]()

    def make() -> Handler:
        handlers.append(Handler())
        return handlers[-1]

    first = CountedConnection(connections, make)
    first.connection_made(busy := Transport())
    second = CountedConnection(connections, make)
    with connections.busy(busy):
        second.connection_made(Transport())
        second.data_received(b"GET / HTTP/1.1\r\n\r\n")
        second.pause_writing()
        second.resume_writing()
        second.connection_lost(None)
    first.connection_lost(None)

    assert len(handlers) == 1
    assert handlers[0].is_lost
    assert connections.count == 0
