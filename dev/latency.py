"""`python -m dev latency`: forwards TCP ports with an added round trip.

Every chunk is sent half a round trip after it arrived, in order; throughput is unchanged, because
delayed chunks do not wait for one another. Opening a connection costs a round trip too, and each
direction ends on its own (half-close). It is a process of its own for its event loop: asyncio's
usual selector wakes at whole milliseconds, which is as long as the delay.
"""

import argparse
import asyncio
import contextlib
import select
import selectors
import socket
import struct
import sys
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from dev.ports import HOST

MAX_DELAYED_BYTES = 8 * 2**20  # then reading pauses, as with a full TCP window


class Pipe:
    """One direction of a connection: chunks that `source` sent and `sink` has not received."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()
        self._open_at = self._loop.time() + 2 * delay_s  # the handshake's round trip
        self._delayed: deque[tuple[float, bytes | None]] = deque()
        self._delayed_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sink_is_full = False
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.reverse = self  # the other direction; see `pipes`
        self.has_ended = False
        self.was_reset = False

    def send(self, chunk: bytes | None) -> None:
        """Delay a chunk from the source; None is its end."""
        send_at = max(self._loop.time(), self._open_at) + self._delay_s
        self._delayed.append((send_at, chunk))
        self._delayed_bytes += len(chunk or b"")
        if self.source is not None and self._delayed_bytes > MAX_DELAYED_BYTES:
            self.source.pause_reading()
        self._set_timer()

    def connect(self, sink: asyncio.Transport) -> None:
        """The sink is connected."""
        self.sink = sink
        if self.was_reset:
            reset(sink)
        self._set_timer()

    def reset(self) -> None:
        """The source was reset: reset the sink, as soon as it is connected."""
        self.was_reset = True
        if self.sink is not None:
            reset(self.sink)

    def set_sink_full(self, sink_is_full: bool) -> None:
        """The sink's write buffer is full, or accepts data again."""
        self._sink_is_full = sink_is_full
        self._set_timer()

    def _set_timer(self) -> None:
        ready = self._delayed and self.sink is not None and not self._sink_is_full
        if ready and self._timer is None:
            self._timer = self._loop.call_at(self._delayed[0][0], self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        sink = self.sink
        while sink is not None and self._delayed and not self._sink_is_full:
            send_at, chunk = self._delayed[0]
            if send_at > self._loop.time():
                break
            self._delayed.popleft()
            if sink.is_closing():
                continue
            if chunk is None:
                self._end(sink)
            else:
                self._delayed_bytes -= len(chunk)
                sink.write(chunk)
        if self.source is not None and self._delayed_bytes <= MAX_DELAYED_BYTES:
            self.source.resume_reading()
        self._set_timer()

    def _end(self, sink: asyncio.Transport) -> None:
        self.has_ended = True
        sink.write_eof()
        if self.reverse.has_ended:
            sink.close()
            if self.source is not None:
                self.source.close()


def pipes(delay_s: float) -> tuple[Pipe, Pipe]:
    """Both directions of a connection."""
    outgoing, incoming = Pipe(delay_s), Pipe(delay_s)
    outgoing.reverse, incoming.reverse = incoming, outgoing
    return outgoing, incoming


def reset(transport: asyncio.WriteTransport) -> None:
    """Reset a connection (RST): an abort alone would send FIN."""
    connection = transport.get_extra_info("socket")
    no_lingering = struct.pack("ii", 1, 0)
    if not transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
    transport.abort()


class End(asyncio.Protocol):
    """One end of a forwarded connection: the source of `outgoing` and the sink of `incoming`."""

    def __init__(self, outgoing: Pipe, incoming: Pipe) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def reset(self) -> None:
        """Reset the connection."""
        if self._outgoing.source is not None:
            reset(self._outgoing.source)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._outgoing.source = transport
        self._incoming.connect(transport)

    def data_received(self, data: bytes) -> None:
        self._outgoing.send(data)

    def eof_received(self) -> bool:
        self._outgoing.send(None)
        return True  # the other direction stays open

    def connection_lost(self, error: Exception | None) -> None:
        self._outgoing.source = None
        self.lost.set_result(None)
        if error is not None:
            self._outgoing.reset()

    def pause_writing(self) -> None:
        self._incoming.set_sink_full(sink_is_full=True)

    def resume_writing(self) -> None:
        self._incoming.set_sink_full(sink_is_full=False)


@dataclass(frozen=True)
class Forward:
    """Connections to `port` of the loopback address go on to `host`:`to_port`."""

    port: int
    host: str
    to_port: int

    @classmethod
    def parse(cls, text: str) -> "Forward":
        """As written on the command line: PORT=HOST:PORT."""
        port, _, address = text.partition("=")
        host, _, to_port = address.rpartition(":")
        return cls(int(port), host.strip("[]"), int(to_port))

    def __str__(self) -> str:
        return f"{self.port}={self.host}:{self.to_port}"


class Proxy:
    """Forwards for the `async with` block; connections still open after it are reset."""

    def __init__(self, forward: Forward, rtt_s: float) -> None:
        self._forward = forward
        self._delay_s = rtt_s / 2
        self._connecting: set[asyncio.Task[None]] = set()
        self._ends: set[End] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, HOST, self._forward.port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        open_ends = list(self._ends)
        for end in open_ends:
            end.reset()
        await asyncio.gather(*(end.lost for end in open_ends))

    def _accept(self) -> End:
        outgoing, incoming = pipes(self._delay_s)
        task = asyncio.get_running_loop().create_task(self._connect(outgoing, incoming))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return self._end(outgoing=outgoing, incoming=incoming)

    async def _connect(self, outgoing: Pipe, incoming: Pipe) -> None:
        """Open the second half of a connection; if that fails, reset the first."""
        loop, forward = asyncio.get_running_loop(), self._forward
        try:
            await loop.create_connection(
                lambda: self._end(outgoing=incoming, incoming=outgoing),
                forward.host,
                forward.to_port,
            )
        except OSError:
            if outgoing.source is not None:
                reset(outgoing.source)

    def _end(self, outgoing: Pipe, incoming: Pipe) -> End:
        end = End(outgoing, incoming)
        self._ends.add(end)
        end.lost.add_done_callback(lambda _: self._ends.discard(end))
        return end


if sys.platform == "linux":

    class PreciseSelector(selectors.EpollSelector):
        """Waits with microsecond resolution; epoll itself has whole milliseconds."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is not None and timeout > 0:
                select.select([self.fileno()], [], [], timeout)
                timeout = 0
            return super().select(timeout)
else:
    PreciseSelector = selectors.DefaultSelector  # kqueue is precise enough


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop with timers precise enough for delays of half a millisecond."""
    return asyncio.SelectorEventLoop(PreciseSelector())


async def forward_all(forwards: list[Forward], rtt_s: float) -> None:
    """Forward until cancelled."""
    async with contextlib.AsyncExitStack() as stack:
        for forward in forwards:
            await stack.enter_async_context(Proxy(forward, rtt_s))
        await asyncio.Event().wait()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev latency", description=__doc__)
    parser.add_argument("--rtt-ms", type=float, required=True)
    parser.add_argument("--forward", type=Forward.parse, action="append", required=True)
    options = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(forward_all(options.forward, options.rtt_ms / 1000))
    return 0
