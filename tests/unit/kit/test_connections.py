"""Connections make room for one another: the idle ones, and those of whoever has the most."""

import asyncio
import json
from typing import Any, cast

import pytest

from kit.http.connection_limits import (
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

    def close(self) -> None:
        self.end = self.end or "closed"

    def abort(self) -> None:
        self.end = "aborted"


class Handler(asyncio.Protocol):
    """What a server would make of each connection."""

    def __init__(self) -> None:
        self.received = b""
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True


def admitted(connections: ConnectionLimiter, *hosts: str | None) -> list[ConnectionSlot]:
    seats = [connections.admit(Transport(host)) for host in hosts]
    assert None not in seats
    return cast("list[ConnectionSlot]", seats)


def ends(seats: list[ConnectionSlot]) -> list[str]:
    return [cast("Transport", seat.transport).end for seat in seats]


def test_above_the_most_the_one_that_was_idle_longest_is_cut_off() -> None:
    told: list[str] = []
    connections = ConnectionLimiter(3, told.append)
    seats = admitted(connections, *["a"] * 3)

    connections.used(seats[0])
    seats += admitted(connections, "a", "a")

    assert ends(seats) == ["", "aborted", "aborted", "", ""]
    assert told == ["evicted"] * 2
    assert connections.count == 3


def test_what_is_at_work_is_never_cut_off_and_rests_afterwards() -> None:
    connections = ConnectionLimiter(2)
    seats = admitted(connections, "a", "a")

    with connections.working(seats[0].transport):
        seats += admitted(connections, "a", "a")
        assert ends(seats) == ["", "aborted", "aborted", ""]
    seats += admitted(connections, "a", "a")

    assert ends(seats) == ["aborted", "aborted", "aborted", "aborted", "", ""]


def test_where_all_are_at_work_the_newcomer_is_told_to_come_again() -> None:
    told: list[str] = []
    connections = ConnectionLimiter(1, told.append)
    (seat,) = admitted(connections, "a")
    refused = Transport("b")

    with connections.working(seat.transport):
        assert connections.admit(refused) is None
    head, _, body = refused.written.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in head
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert (json.loads(body)["type"], json.loads(body)["status"]) == ("overloaded", 503)
    assert refused.end == "closed"
    assert told == ["refused"]
    assert ends([seat]) == [""]


def test_whoever_has_the_most_makes_room_for_the_others() -> None:
    connections = ConnectionLimiter(5)
    quiet = admitted(connections, "quiet", None)
    crowd = admitted(connections, *["crowd"] * 3)

    crowd += admitted(connections, *["crowd"] * 10)
    late = admitted(connections, "late")

    assert ends(quiet + late) == [""] * 3
    assert ends(crowd).count("aborted") == 11
    assert connections.count == 5


def test_a_connection_that_ended_by_itself_has_made_room() -> None:
    connections = ConnectionLimiter(1)
    (gone,) = admitted(connections, "a")

    connections.lost(gone)
    connections.lost(gone)
    admitted(connections, "a")

    assert ends([gone]) == [""]
    assert connections.count == 1


def test_without_a_most_all_are_admitted() -> None:
    connections = ConnectionLimiter()

    assert "aborted" not in ends(admitted(connections, *["a"] * 1000))


def test_one_that_was_lost_at_work_takes_no_room_afterwards() -> None:
    connections = ConnectionLimiter(1)
    (seat,) = admitted(connections, "a")

    with connections.working(seat.transport):
        connections.lost(seat)
    admitted(connections, "a")

    assert connections.count == 1
    assert ends([seat]) == [""]


@pytest.mark.parametrize("piece", [1, 1000, HEAD_MAX_BYTES])
def test_a_head_without_end_is_given_up(piece: int) -> None:
    handler, transport = Handler(), Transport()
    connection = CountedConnection(ConnectionLimiter(), lambda: handler)
    connection.connection_made(transport)

    for _ in range(HEAD_MAX_BYTES // piece):
        connection.data_received(b"x" * piece)
    assert transport.end == ""
    connection.data_received(b"x" * piece)

    assert transport.end == "aborted"
    assert len(handler.received) <= HEAD_MAX_BYTES


@pytest.mark.parametrize("piece", [1, 3, 4096, 10 * HEAD_MAX_BYTES])
def test_what_follows_a_head_is_not_counted_as_one(piece: int) -> None:
    handler, transport = Handler(), Transport()
    connection = CountedConnection(ConnectionLimiter(), lambda: handler)
    connection.connection_made(transport)
    request = b"PUT / HTTP/1.1\r\nContent-Length: 1\r\n\r\n" + b"x" * 3 * HEAD_MAX_BYTES

    for start in range(0, len(request), piece):
        connection.data_received(request[start : start + piece])

    assert transport.end == ""
    assert handler.received == request


def test_a_refused_connection_never_meets_the_server() -> None:
    connections, handlers = ConnectionLimiter(1), list[Handler]()

    def make() -> Handler:
        handlers.append(Handler())
        return handlers[-1]

    first = CountedConnection(connections, make)
    first.connection_made(at_work := Transport())
    second = CountedConnection(connections, make)
    with connections.working(at_work):
        second.connection_made(Transport())
        second.data_received(b"GET / HTTP/1.1\r\n\r\n")
        second.pause_writing()
        second.resume_writing()
        second.connection_lost(None)
    first.connection_lost(None)

    assert len(handlers) == 1
    assert handlers[0].is_lost
    assert connections.count == 0
