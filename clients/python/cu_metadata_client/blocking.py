"""The blocking transport, on the standard library alone."""

import http.client
import random
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

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


class Client:
    """Sends calls over one keep-alive connection. Not thread-safe: one client per thread.

    `address` is `http://host:port` or `unix:/path`. Retries end `deadline_s` after a call was made;
    `timeout_s` bounds the wait for one response.
    """

    def __init__(
        self,
        address: str = "http://127.0.0.1:7070",
        *,
        token: Token,
        deadline_s: float = 30.0,
        timeout_s: float = 65.0,  # the sidecar holds a response for 60 s at most
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._address = Address.parse(address)
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._exchanges = Exchanges(token, deadline_s, clock=clock, jitter=jitter)
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def send(
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
                came = self._attempt(step)
            else:
                self._sleep(step)
                came = None

    def _attempt(self, request: Request) -> Response | Failure:
        was_reused = self._connection is not None
        connection = self._connection or self._connect()
        try:
            connection.request(
                request.method, request.target, request.content, dict(request.headers)
            )
            response = connection.getresponse()
            content = response.read()
        except (http.client.HTTPException, OSError) as error:
            self.close()
            return Failure(error, was_reused and not isinstance(error, TimeoutError))
        except BaseException:
            self.close()  # or the late response would be read as the next call's
            raise
        if response.will_close:
            self.close()
        headers = response.headers
        return Response(response.status, content, headers["Retry-After"], headers["ETag"])

    def _connect(self) -> http.client.HTTPConnection:
        address = self._address
        if address.unix_socket is not None:
            self._connection = _UnixConnection(address.unix_socket, self._timeout_s)
        else:
            self._connection = http.client.HTTPConnection(
                address.host, address.port, timeout=self._timeout_s
            )
        return self._connection


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
