"""The client that blocks, on the standard library alone."""

import http.client
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

from sidecar.client.exchange import PASSING, Call, pause_s, unreachable

T = TypeVar("T")


class Client:
    """Sends calls over one connection, kept open and made anew when it was closed.

    Not for several threads at once: give each its own. `token` is the user's, or a function
    that has the present one. While the sidecar asks to come again or does not answer, a call
    is tried again for `patience_s`; what it raises then is `ApiProblem` or `Unreachable`.
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
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = urlsplit(url)
        self._token = token
        self._unix_socket = unix_socket
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._sleep = sleep
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

    def send(self, call: Call[T]) -> T:
        """The call's answer, as its type. Raises `ApiProblem` and `Unreachable`."""
        give_up_at = self._clock() + self._patience_s
        while True:
            is_new = self._connection is None
            wait_s = 0.0
            try:
                status, retry_after, content = self._once(call)
            except (http.client.HTTPException, OSError) as error:
                self.close()
                # A kept connection may have been closed by the other end: that is no failure,
                # while silence is one on any connection.
                if is_new or isinstance(error, TimeoutError):
                    wait_s = 1.0
                    if self._clock() + wait_s > give_up_at:
                        raise unreachable(call, error) from error
            else:
                wait_s = pause_s(retry_after)
                if status not in PASSING or self._clock() + wait_s > give_up_at:
                    return call.outcome(status, content)
            self._sleep(wait_s)

    def _once(self, call: Call[T]) -> tuple[int, str | None, bytes]:
        connection = self._connection or self._connect()
        token = self._token if isinstance(self._token, str) else self._token()
        connection.request(call.method, call.target, call.content(), call.all_headers(token))
        answer = connection.getresponse()
        content = answer.read()
        if answer.will_close:
            self.close()
        return answer.status, answer.headers.get("Retry-After"), content

    def _connect(self) -> http.client.HTTPConnection:
        if self._unix_socket is not None:
            self._connection = _UnixConnection(self._unix_socket, self._timeout_s)
        else:
            host, port = self._url.hostname or "127.0.0.1", self._url.port or 80
            self._connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        return self._connection


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
