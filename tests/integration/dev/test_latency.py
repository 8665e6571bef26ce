"""The proxy that adds a round trip: delay, order, throughput, half-close, refusal, reset."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from dev.latency import Forward, Proxy, precise_loop
from tests.databases import free_port

HOST = "127.0.0.1"
RTT_S = 0.02

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what comes, then ends."""
    while chunk := await reader.read(2**16):
        writer.write(chunk)
        await writer.drain()


@asynccontextmanager
async def proxied(serve: Serve, rtt_s: float = RTT_S) -> AsyncIterator[Streams]:
    """One connection through the proxy to a server of ours."""
    served = asyncio.Event()

    async def serve_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()
        served.set()

    server = await asyncio.start_server(serve_once, HOST, 0)
    forward = Forward(free_port(), HOST, server.sockets[0].getsockname()[1])
    async with server, Proxy(forward, rtt_s):
        reader, writer = await asyncio.open_connection(HOST, forward.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            await served.wait()


async def round_trip_s(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    """How long one byte takes there and back."""
    begun_at = time.perf_counter()
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    return time.perf_counter() - begun_at


async def test_round_trip_is_delayed() -> None:
    async with proxied(echo) as (reader, writer):
        await round_trip_s(reader, writer)  # the connection is open now

        taken_s = min([await round_trip_s(reader, writer) for _ in range(5)])

    assert RTT_S <= taken_s < 2 * RTT_S


async def test_connect_costs_a_round_trip() -> None:
    async with proxied(echo) as (reader, writer):
        taken_s = await round_trip_s(reader, writer)

    assert taken_s >= 1.9 * RTT_S


async def test_bytes_keep_their_order_and_throughput() -> None:
    sent = bytes(range(256)) * 2**14  # 4 MiB, more than any buffer on the way

    async with proxied(echo) as (reader, writer):
        begun_at = time.perf_counter()
        writer.write(sent)
        writer.write_eof()
        received = await reader.read()
        taken_s = time.perf_counter() - begun_at

    assert received == sent
    assert taken_s < 100 * RTT_S  # chunk by chunk it would be more than 64 of them each way


async def test_half_close_leaves_the_other_direction_open() -> None:
    async def answer_after_the_end(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        question = await reader.read()
        writer.write(b"you said " + question)

    async with proxied(answer_after_the_end) as (reader, writer):
        writer.write(b"this")
        writer.write_eof()

        assert await reader.read() == b"you said this"


async def test_connection_is_reset_if_the_server_is_down() -> None:
    forward = Forward(free_port(), HOST, free_port())
    async with Proxy(forward, RTT_S):
        reader, writer = await asyncio.open_connection(HOST, forward.port)

        assert await ending(reader, writer) == "reset"


async def test_reset_is_forwarded() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        no_lingering = struct.pack("ii", 1, 0)  # makes close() send RST
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)

    async with proxied(reset) as (reader, writer):
        writer.write(b"x")

        assert await ending(reader, writer) == "reset"


async def ending(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """How the other side ends the connection, which is closed then."""
    try:
        async with asyncio.timeout(5):
            await reader.read()
    except ConnectionResetError:
        return "reset"
    finally:
        writer.close()
    return "end"


def test_timers_are_accurate_to_less_than_a_millisecond() -> None:
    """The usual event loop would make it two: its timers wake at whole milliseconds."""

    async def best_of_many() -> float:
        async with proxied(echo, rtt_s=0.001) as (reader, writer):
            return min([await round_trip_s(reader, writer) for _ in range(50)])

    with asyncio.Runner(loop_factory=precise_loop) as runner:
        taken_s = runner.run(best_of_many())

    assert 0.001 <= taken_s < 0.0019


def test_forward_is_parsed_as_it_is_printed() -> None:
    forward = Forward.parse("7091=db.example.org:5432")

    assert forward == Forward(7091, "db.example.org", 5432)
    assert Forward.parse(str(forward)) == forward
