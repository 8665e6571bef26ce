"""When the clients try again: a closed connection, an answer that asks for patience, silence."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from sidecar.client import ApiProblem, Client, Unreachable, calls
from sidecar.client.exchange import Call
from sidecar.client.nonblocking import AsyncClient

VERSION = b'{"workflow_id":1,"version_id":7}'
CALL = calls.latest_version(1)


def reply(status: str, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


OK = reply("200 OK", VERSION)
CLOSING = reply("200 OK", VERSION, "Connection: close")
BUSY = reply("503 Busy", b'{"type":"spool-full"}', "Retry-After: 2")


@contextmanager
def answering(*connections: Sequence[bytes]) -> Iterator[str]:
    """A server whose nth connection gives these answers and is then closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answers in connections:
                peer, _ = server.accept()
                with peer:
                    for answer in answers:
                        received = b""
                        while b"\r\n\r\n" not in received:
                            received += peer.recv(65_536)
                        peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)
        assert not thread.is_alive(), "not every answer was asked for"


class Pauses:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def sleep_async(self, seconds: float) -> None:
        self.slept.append(seconds)


def blocking(
    url: str, pauses: Pauses, patience_s: float, made: Sequence[Call[int | None]]
) -> list[int | None]:
    with Client(
        url, token="t", patience_s=patience_s, clock=pauses.now, sleep=pauses.sleep
    ) as client:
        return [client.send(call) for call in made]


def nonblocking(
    url: str, pauses: Pauses, patience_s: float, made: Sequence[Call[int | None]]
) -> list[int | None]:
    async def send() -> list[int | None]:
        async with AsyncClient(
            url, token="t", patience_s=patience_s, clock=pauses.now, sleep=pauses.sleep_async
        ) as client:
            return [await client.send(call) for call in made]

    return asyncio.run(send())


either = pytest.mark.parametrize("send_all", [blocking, nonblocking])


@either
def test_a_connection_that_was_closed_meanwhile_is_no_failure(
    send_all: Callable[..., list[int]],
) -> None:
    pauses = Pauses()
    with answering([OK], [OK, OK]) as url:
        assert send_all(url, pauses, 10, [CALL] * 3) == [7, 7, 7]

    assert sum(pauses.slept) <= 1


@either
def test_a_server_that_says_so_gets_a_new_connection(send_all: Callable[..., list[int]]) -> None:
    with answering([CLOSING], [CLOSING]) as url:
        assert send_all(url, Pauses(), 10, [CALL] * 2) == [7, 7]


@either
def test_an_answer_that_asks_to_come_again_is_obeyed(send_all: Callable[..., list[int]]) -> None:
    pauses = Pauses()
    with answering([BUSY, BUSY, OK]) as url:
        assert send_all(url, pauses, 10, [CALL]) == [7]

    assert pauses.slept == [2, 2]


@either
def test_patience_ends_with_the_last_problem(send_all: Callable[..., list[int]]) -> None:
    with answering([BUSY, BUSY]) as url, pytest.raises(ApiProblem) as told:
        send_all(url, Pauses(), 3, [CALL])

    assert told.value.type == "spool-full"


@either
def test_nobody_there_is_told_after_the_patience(send_all: Callable[..., list[int]]) -> None:
    pauses = Pauses()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

    with pytest.raises(Unreachable):
        send_all(url, pauses, 3, [CALL])

    assert pauses.slept == [1, 1, 1]


@either
@pytest.mark.parametrize(
    ("page", "status"), [(reply("502 Bad", b"<html>"), 502), (reply("200 OK", b"<html>"), 200)]
)
def test_a_page_that_is_no_answer_of_ours_is_told_as_its_status(
    send_all: Callable[..., list[int]], page: bytes, status: int
) -> None:
    with answering([page]) as url, pytest.raises(ApiProblem) as told:
        send_all(url, Pauses(), 3, [CALL])

    assert (told.value.type, told.value.status) == (f"http-{status}", status)


@contextmanager
def silent_after_one_answer() -> Iterator[str]:
    """A server that answers the first call and leaves every other open."""
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


def test_silence_counts_against_the_patience_on_a_kept_connection_too() -> None:
    pauses = Pauses()
    with (
        silent_after_one_answer() as url,
        Client(
            url, token="t", timeout_s=0.2, patience_s=2, clock=pauses.now, sleep=pauses.sleep
        ) as client,
    ):
        assert client.send(CALL) == 7
        with pytest.raises(Unreachable, match="timed out"):
            client.send(CALL)

    assert pauses.slept == [1, 1]


async def test_the_asyncio_client_says_what_silence_was() -> None:
    pauses = Pauses()
    with silent_after_one_answer() as url:
        async with AsyncClient(
            url, token="t", timeout_s=0.2, patience_s=2, clock=pauses.now, sleep=pauses.sleep_async
        ) as client:
            assert await client.send(CALL) == 7
            with pytest.raises(Unreachable, match=r": .+"):
                await client.send(CALL)

    assert pauses.slept == [1, 1]


async def test_a_call_that_was_cancelled_spoils_no_other() -> None:
    """Its connection goes with it, or its late answer would be the next call's."""
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65_536)
                asked.set()
                assert peer.recv(65_536) == b"", "the cancelled call's connection is still used"
            peer, _ = server.accept()
            with peer:
                peer.recv(65_536)
                peer.sendall(OK)

        serving = asyncio.ensure_future(asyncio.to_thread(serve))
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        async with AsyncClient(url, token="t") as client:
            cancelled = asyncio.ensure_future(client.send(CALL))
            await asyncio.to_thread(asked.wait, 60)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert await client.send(CALL) == 7
            await serving


def test_a_token_may_change_between_calls() -> None:
    tokens = iter(["first", "second"])
    with answering([OK, OK]) as url, Client(url, token=lambda: next(tokens)) as client:
        assert [client.send(CALL), client.send(CALL)] == [7, 7]

    assert next(tokens, None) is None
