"""A caller without verified credentials gets one response per round trip; others are unaffected."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from kit.http.connection_limits import ConnectionLimiter, listening
from kit.http.problems import InvalidRequest
from kit.http.routing import problem_middleware
from kit.http.settings import Address

COUNT = 20_000
"""So many that the server still has to read most of them when it responds to the first."""
STRANGER = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
KNOWN = b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: y\r\n\r\n"
WITH_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server that verifies whoever sends an Authorization."""
    limiter = ConnectionLimiter()

    async def refuse(request: web.Request) -> web.Response:
        raise InvalidRequest("refused")

    is_verified = limiter.middleware(lambda request: "Authorization" in request.headers)
    app = web.Application(middlewares=[is_verified, problem_middleware])
    app.router.add_route("*", "/", refuse)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    runner = web.AppRunner(app, access_log=None)
    async with listening(runner, Address("127.0.0.1", port), limiter):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()


async def read_response(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)


@pytest.mark.parametrize("request_", [STRANGER, WITH_BODY], ids=["head", "body"])
async def test_requests_sent_ahead_without_credentials_get_one_response(request_: bytes) -> None:
    async with connected() as (reader, writer):
        writer.write(request_ * COUNT)

        received = await asyncio.wait_for(reader.read(-1), 10)

    head, _, body = received.partition(b"\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nConnection: close" in head
    assert body.endswith(b"}")
    assert received.count(b"HTTP/1.1") == 1


async def test_the_last_response_arrives_although_the_client_still_sends() -> None:
    """A reset would overtake it: the client would fail in sending, and read nothing."""
    async with connected() as (reader, writer):
        writer.write(STRANGER * 2)
        received = await read_response(reader)
        for _ in range(20):
            writer.write(STRANGER * 1000)
            await writer.drain()
            await asyncio.sleep(0.01)

        assert await asyncio.wait_for(reader.read(), 10) == b""

    assert received.startswith(b"HTTP/1.1 400 ")


async def test_requests_sent_ahead_with_credentials_are_all_served() -> None:
    async with connected() as (reader, writer):
        writer.write(KNOWN * 200)

        responses = [await asyncio.wait_for(read_response(reader), 10) for _ in range(200)]

    assert {response[:12] for response in responses} == {b"HTTP/1.1 400"}
    assert not any(b"Connection: close" in response for response in responses)


@pytest.mark.parametrize("request_", [STRANGER, WITH_BODY], ids=["head", "body"])
async def test_requests_one_after_another_keep_their_connection(request_: bytes) -> None:
    async with connected() as (reader, writer):
        for _ in range(50):
            writer.write(request_)
            response = await asyncio.wait_for(read_response(reader), 10)
            assert b"Connection: close" not in response


async def test_credentials_behind_a_refused_request_do_not_help_it() -> None:
    async with connected() as (reader, writer):
        writer.write(KNOWN + STRANGER + KNOWN)

        received = await asyncio.wait_for(reader.read(-1), 10)

    assert received.count(b"HTTP/1.1") == 2
