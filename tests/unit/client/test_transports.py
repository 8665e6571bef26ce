"""Both transports on real sockets: closed connections, retries, timeouts, cancellation."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from cu_metadata_client import Client, Problem, Unreachable, calls
from cu_metadata_client.aio import AsyncClient
from cu_metadata_client.protocol import Call

VERSION = b'{"workflow_id":1,"version_id":7}'
CALL = calls.latest_version(1)


def response_bytes(status: str, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


OK = response_bytes("200 OK", VERSION)
CLOSING = response_bytes("200 OK", VERSION, "Connection: close")
BUSY = response_bytes("503 Busy", b'{"type":"spool-full"}', "Retry-After: 2")


@contextmanager
def serving(*connections: Sequence[bytes]) -> Iterator[str]:
    """A server whose nth connection gives these responses and is then closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for responses in connections:
                peer, _ = server.accept()
                with peer:
                    for response in responses:
                        received = b""
                        while b"\r\n\r\n" not in received:
                            received += peer.recv(65_536)
                        peer.sendall(response)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)
        assert not thread.is_alive(), "not every response was requested"


class Pauses:
    """A clock that only sleeping moves, with the longest backoff."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def sleep_async(self, seconds: float) -> None:
        self.slept.append(seconds)


def blocking(
    url: str, pauses: Pauses, deadline_s: float, made: Sequence[Call[int | None]]
) -> list[int | None]:
    with Client(
        url,
        token="t",
        deadline_s=deadline_s,
        clock=pauses.now,
        sleep=pauses.sleep,
        jitter=lambda: 1.0,
    ) as client:
        return [client.send(call) for call in made]


def nonblocking(
    url: str, pauses: Pauses, deadline_s: float, made: Sequence[Call[int | None]]
) -> list[int | None]:
    async def send() -> list[int | None]:
        async with AsyncClient(
            url,
            token="t",
            deadline_s=deadline_s,
            clock=pauses.now,
            sleep=pauses.sleep_async,
            jitter=lambda: 1.0,
        ) as client:
            return [await client.send(call) for call in made]

    return asyncio.run(send())


either = pytest.mark.parametrize("send_all", [blocking, nonblocking])


@either
def test_connection_closed_between_requests_is_replaced(
    send_all: Callable[..., list[int]],
) -> None:
    pauses = Pauses()
    with serving([OK], [OK, OK]) as url:
        assert send_all(url, pauses, 10, [CALL] * 3) == [7, 7, 7]

    assert sum(pauses.slept) <= 1


@either
def test_connection_close_header_opens_a_new_connection(send_all: Callable[..., list[int]]) -> None:
    with serving([CLOSING], [CLOSING]) as url:
        assert send_all(url, Pauses(), 10, [CALL] * 2) == [7, 7]


@either
def test_retry_after_is_waited_for(send_all: Callable[..., list[int]]) -> None:
    pauses = Pauses()
    with serving([BUSY, BUSY, OK]) as url:
        assert send_all(url, pauses, 10, [CALL]) == [7]

    assert pauses.slept == pytest.approx([2.1, 2.2])


@either
def test_last_problem_is_raised_at_the_deadline(send_all: Callable[..., list[int]]) -> None:
    with serving([BUSY, BUSY]) as url, pytest.raises(Problem) as raised:
        send_all(url, Pauses(), 3, [CALL])

    assert raised.value.type == "spool-full"


@either
def test_unreachable_is_raised_at_the_deadline(send_all: Callable[..., list[int]]) -> None:
    pauses = Pauses()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

    with pytest.raises(Unreachable):
        send_all(url, pauses, 3, [CALL])

    assert pauses.slept == pytest.approx([0.1, 0.2, 0.4, 0.8])


@either
@pytest.mark.parametrize(
    ("page", "status"),
    [(response_bytes("502 Bad", b"<html>"), 502), (response_bytes("200 OK", b"<html>"), 200)],
)
def test_response_without_a_problem_document_has_the_type_of_its_status(
    send_all: Callable[..., list[int]], page: bytes, status: int
) -> None:
    with serving([page]) as url, pytest.raises(Problem) as raised:
        send_all(url, Pauses(), 3, [CALL])

    assert (raised.value.type, raised.value.status) == (f"http-{status}", status)


@contextmanager
def silent_after_one_response() -> Iterator[str]:
    """A server that responds to the first request only."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65_536)
                peer.sendall(OK)
                ended.wait(60)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        thread.join(10)


def test_blocking_timeout_on_a_kept_connection_counts_against_the_deadline() -> None:
    pauses = Pauses()
    with (
        silent_after_one_response() as url,
        Client(
            url,
            token="t",
            timeout_s=0.2,
            deadline_s=2,
            clock=pauses.now,
            sleep=pauses.sleep,
            jitter=lambda: 1.0,
        ) as client,
    ):
        assert client.send(CALL) == 7
        with pytest.raises(Unreachable, match="timed out"):
            client.send(CALL)

    assert pauses.slept == pytest.approx([0.1, 0.2, 0.4, 0.8])


async def test_asyncio_timeout_is_named_in_unreachable() -> None:
    pauses = Pauses()
    with silent_after_one_response() as url:
        async with AsyncClient(
            url,
            token="t",
            timeout_s=0.2,
            deadline_s=2,
            clock=pauses.now,
            sleep=pauses.sleep_async,
            jitter=lambda: 1.0,
        ) as client:
            assert await client.send(CALL) == 7
            with pytest.raises(Unreachable, match=r": .+"):
                await client.send(CALL)

    assert pauses.slept == pytest.approx([0.1, 0.2, 0.4, 0.8])


async def test_cancelled_call_closes_its_connection() -> None:
    """Else its late response would be read as the next call's."""
    received = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65_536)
                received.set()
                assert peer.recv(65_536) == b"", "the cancelled call's connection is still used"
            peer, _ = server.accept()
            with peer:
                peer.recv(65_536)
                peer.sendall(OK)

        serving = asyncio.ensure_future(asyncio.to_thread(serve))
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        async with AsyncClient(url, token="t") as client:
            cancelled = asyncio.ensure_future(client.send(CALL))
            await asyncio.to_thread(received.wait, 60)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert await client.send(CALL) == 7
            await serving


def test_token_function_is_called_for_every_call() -> None:
    tokens = iter(["first", "second"])
    with serving([OK, OK]) as url, Client(url, token=lambda: next(tokens)) as client:
        assert [client.send(CALL), client.send(CALL)] == [7, 7]

    assert next(tokens, None) is None
