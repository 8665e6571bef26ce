"""The client for asyncio, on aiohttp."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
from yarl import URL

from sidecar.client.exchange import PASSING, Call, pause_s, unreachable

T = TypeVar("T")


class AsyncClient:
    """As `Client`, for asyncio; many calls may be under way at once.

    An async context manager: connections live as long as it is entered.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:7070",
        *,
        token: str | Callable[[], str],
        unix_socket: Path | None = None,
        patience_s: float = 30.0,
        timeout_s: float = 65.0,  # a call may be held for 60 s
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._unix_socket = unix_socket
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        connector: aiohttp.BaseConnector
        if self._unix_socket is not None:
            connector = aiohttp.UnixConnector(str(self._unix_socket))
        else:
            connector = aiohttp.TCPConnector()
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def send(self, call: Call[T]) -> T:
        """The call's answer, as its type. Raises `ApiProblem` and `Unreachable`."""
        give_up_at = self._clock() + self._patience_s
        while True:
            try:
                status, retry_after, content = await self._once(call)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                wait_s = 1.0
                if self._clock() + wait_s > give_up_at:
                    raise unreachable(call, error) from error
            else:
                wait_s = pause_s(retry_after)
                if status not in PASSING or self._clock() + wait_s > give_up_at:
                    return call.outcome(status, content)
            await self._sleep(wait_s)

    async def _once(self, call: Call[T]) -> tuple[int, str | None, bytes]:
        token = self._token if isinstance(self._token, str) else self._token()
        url = URL(self._url + call.target, encoded=True)
        async with self._session.request(
            call.method, url, data=call.content(), headers=call.all_headers(token)
        ) as answer:
            content = await answer.read()
            return answer.status, answer.headers.get("Retry-After"), content
