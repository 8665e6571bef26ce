"""The asyncio transport, on aiohttp."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
from yarl import URL

from cu_metadata_client.protocol import (
    Address,
    Call,
    Exchanges,
    Failure,
    OnRetry,
    Request,
    Response,
    Token,
)

T = TypeVar("T")


class AsyncClient:
    """As `Client`, for asyncio; calls may run concurrently. An async context manager.

    With `session` it uses that aiohttp session, which stays its owner's to close.
    """

    def __init__(
        self,
        address: str = "http://127.0.0.1:7070",
        *,
        token: Token,
        deadline_s: float = 30.0,
        timeout_s: float = 65.0,  # the sidecar holds a response for 60 s at most
        session: aiohttp.ClientSession | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._address = Address.parse(address)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._own_session: aiohttp.ClientSession | None = None
        self._session = session
        self._sleep = sleep
        self._exchanges = Exchanges(token, deadline_s, clock=clock, jitter=jitter)

    async def __aenter__(self) -> Self:
        if self._session is None:
            connector = (
                aiohttp.UnixConnector(self._address.unix_socket)
                if self._address.unix_socket is not None
                else aiohttp.TCPConnector()
            )
            self._session = self._own_session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._own_session is not None:
            await self._own_session.close()
            self._session = self._own_session = None

    async def send(
        self, call: Call[T], *, on_retry: OnRetry | None = None, token: Token | None = None
    ) -> T:
        """The call's result. `token` (a run's) replaces the client's own.

        Raises `Problem` and `Unreachable`.
        """
        exchange = self._exchanges.exchange(call, on_retry, token)
        came: Response | Failure | None = None
        while True:
            try:
                step = exchange.send(came)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Request):
                came = await self._attempt(step)
            else:
                await self._sleep(step)
                came = None

    async def _attempt(self, request: Request) -> Response | Failure:
        assert self._session is not None, "enter the client first"
        try:
            async with self._session.request(
                request.method,
                URL(self._address.origin + request.target, encoded=True),
                data=request.content,
                headers=request.headers,
                timeout=self._timeout,
            ) as response:
                content = await response.read()
                headers = response.headers
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # aiohttp does not say whether the connection was reused; a new one seldom ends so.
            return Failure(error, isinstance(error, aiohttp.ServerDisconnectedError))
        return Response(response.status, content, headers.get("Retry-After"), headers.get("ETag"))
