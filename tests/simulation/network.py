"""The network between sidecars and central, in place of aiohttp's session.

It is the only part of the HTTP client that is replaced: signing, deadlines, the classification of
responses, retries and circuit breakers are the real `CentralClient`'s. A request travels by itself:
if its sender is killed on the way, it still arrives. The seed decides for each what happens to it.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.simulation.central import MemoryCentral
from tests.simulation.trace import Trace
from tests.simulation.virtual_loop import VirtualLoop

DUPLICATE_WITHIN_S = 50.0
"""Central refuses a signed call that is older than a minute."""
RawResponse = tuple[int, Mapping[str, str], bytes]
PAGE: RawResponse = (502, {"Content-Type": "text/html"}, b"<h1>Bad Gateway</h1>")
BUSY: RawResponse = (
    503,
    {"Content-Type": "application/problem+json", "Retry-After": "2"},
    b'{"type":"overloaded"}',
)
TOO_LARGE: RawResponse = (413, {"Content-Type": "text/html"}, b"<h1>Too Large</h1>")
TOO_MANY: RawResponse = (
    429,
    {"Content-Type": "application/problem+json", "Retry-After": "1"},
    b'{"type":"rate-limited","status":429}',
)


@dataclass(frozen=True)
class Faults:
    """Chances per request."""

    lost: float = 0.0
    response_lost: float = 0.0
    duplicated: float = 0.0
    slow: float = 0.0
    page: float = 0.0
    """Somebody else than central answers."""
    unlimited: float = 0.0
    """The request is spared the proxy's limit: its replicas differ."""


@dataclass(frozen=True)
class _Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    async def read(self) -> bytes:
        return self.body


class Network:
    def __init__(
        self, loop: VirtualLoop, central: MemoryCentral, chance: random.Random, trace: Trace
    ) -> None:
        self._loop = loop
        self._central = central
        self._chance = chance
        self._trace = trace
        self.faults = Faults()
        self.cut: set[str] = set()
        """Sources that cannot reach central."""
        self.central_is_down = False
        self.proxy_bytes = 10**9
        self.last_fault_at: dict[str, float] = {}
        """When a request of a source was last lost, slow, or answered by somebody else."""

    def session(self, source_id: str) -> Any:
        """In place of an `aiohttp.ClientSession`."""
        return _Session(self, source_id)

    async def exchange(
        self, source_id: str, method: str, target: str, body: bytes, timeout_s: float
    ) -> _Response:
        """Raises what aiohttp raises."""
        waiter: asyncio.Future[_Response] = self._loop.create_future()
        self._send(source_id, method, target, body, waiter)
        async with asyncio.timeout(timeout_s):
            return await waiter

    def _send(
        self,
        source_id: str,
        method: str,
        target: str,
        body: bytes,
        waiter: "asyncio.Future[_Response]",
    ) -> None:
        chance, faults = self._chance, self.faults
        if chance.random() < faults.lost:
            self._record_fault(source_id)
            if chance.random() < 0.5:  # else the caller waits for its timeout
                self._loop.call_later(self._delay_s(source_id), _reset, waiter)
            return
        arrival = source_id, method, target, body
        self._loop.call_later(self._delay_s(source_id), self._arrive, *arrival, waiter)
        if chance.random() < faults.duplicated:
            delay_s = chance.uniform(0, DUPLICATE_WITHIN_S)
            self._loop.call_later(delay_s, self._arrive, *arrival, None)

    def _arrive(
        self,
        source_id: str,
        method: str,
        target: str,
        body: bytes,
        waiter: "asyncio.Future[_Response] | None",
    ) -> None:
        chance = self._chance
        if self.central_is_down or source_id in self.cut:
            self._record_fault(source_id)
            _reset(waiter)
            return
        is_limited = len(body) > self.proxy_bytes
        if is_limited and chance.random() >= self.faults.unlimited:
            response: RawResponse = TOO_LARGE
        elif waiter is not None and chance.random() < self.faults.page:
            self._record_fault(source_id)
            response = chance.choice([PAGE, BUSY, TOO_MANY])
        else:
            now = self._loop.time()
            response = self._central.respond(source_id, method, target, body, now)
            digest = hashlib.sha256(body + response[2]).hexdigest()[:8]
            self._trace.add(now, source_id[:4], method, target, response[0], digest)
        if waiter is None:
            return
        if chance.random() < self.faults.response_lost:
            self._record_fault(source_id)
            if chance.random() < 0.5:
                self._loop.call_later(self._delay_s(source_id), _reset, waiter)
            return
        delay_s = self._delay_s(source_id)
        self._loop.call_later(delay_s, _deliver, waiter, _Response(*response))

    def _record_fault(self, source_id: str) -> None:
        self.last_fault_at[source_id] = self._loop.time()

    def _delay_s(self, source_id: str) -> float:
        if self._chance.random() < self.faults.slow:
            self._record_fault(source_id)
            return self._chance.uniform(0.1, 15.0)
        return self._chance.uniform(0.001, 0.02)


class _Session:
    def __init__(self, network: Network, source_id: str) -> None:
        self._network = network
        self._source_id = source_id

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: Any,
        *,
        data: bytes | None,
        timeout: Any,  # noqa: ASYNC109 (aiohttp's)
        **_: Any,
    ) -> AsyncIterator[_Response]:
        target, body = url.raw_path_qs, data or b""
        yield await self._network.exchange(self._source_id, method, target, body, timeout.total)


def _deliver(waiter: "asyncio.Future[_Response]", response: _Response) -> None:
    if not waiter.done():
        waiter.set_result(response)


def _reset(waiter: "asyncio.Future[_Response] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_exception(aiohttp.ClientConnectionError("cut"))
