"""Every decision of a client, without I/O.

A `Call` describes one request and how its response is read. `Exchanges.exchange` is a generator
that both transports drive:

    yields Request    the transport sends it; sends back a Response or a Failure
    yields a float    the transport sleeps so many seconds
    returns           the call's result; or raises Problem or Unreachable

Retries are safe for every call: a POST carries an idempotency key that was minted with the call,
and all others are idempotent by themselves.
"""

import json
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

from cu_metadata_client.errors import Unreachable, problem

T = TypeVar("T")

RETRIED_STATUSES = frozenset({429, 503})
MAX_RETRY_AFTER_S = 5.0
BACKOFF_BASE_S = 0.1
BACKOFF_MAX_S = 2.0
MAX_ETAGS = 256

Token: TypeAlias = str | Callable[[], str]
"""A user's or a run's token, or a function that returns the current one."""
OnRetry: TypeAlias = Callable[[str], None]
"""Called before each retry with its reason: a problem type, or `connection`."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the sidecar listens: a TCP port, or a unix socket."""

    host: str
    port: int
    unix_socket: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `http://host:port` or `unix:/path`. Raises ValueError."""
        if text.startswith("unix:/"):
            return cls("localhost", 80, text.removeprefix("unix:"))
        url = urlsplit(text)
        if url.scheme != "http" or not url.hostname or url.path not in {"", "/"}:
            raise ValueError(f"{text!r} is neither http://host:port nor unix:/path")
        return cls(url.hostname, url.port or 80)

    @property
    def origin(self) -> str:
        """The URL that request targets are appended to."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how its response is read.

    `absent`: the problem types that are returned as None. `is_conditional`: the response's ETag
    is kept and sent with the next call of the same target.
    """

    method: str
    target: str
    read: Callable[[Any], T]
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    is_conditional: bool = False

    def result(self, status: int, content: bytes) -> T:
        """The response, read. Raises `Problem`."""
        document = _decode(content)
        if 200 <= status < 300 and isinstance(document, dict):
            return self.read(document)
        found = problem(status, document if isinstance(document, dict) else {})
        if found.type in self.absent:
            return None  # type: ignore[return-value]  # T of such a call includes None
        raise found


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str]
    content: bytes | None


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    content: bytes
    retry_after: str | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """No response. `was_reused`: the connection had served an earlier request."""

    error: Exception
    was_reused: bool = False


Exchange: TypeAlias = Generator[Request | float, Response | Failure | None, T]


class Exchanges:
    """One client's calls: its token, its deadline, and the last values of conditional reads."""

    def __init__(
        self,
        token: Token,
        deadline_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._token = token
        self._deadline_s = deadline_s
        self._clock = clock
        self._jitter = jitter
        self._last: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        """ETag and content by target, the least recently used first."""

    def exchange(
        self, call: Call[T], on_retry: OnRetry | None = None, token: Token | None = None
    ) -> Exchange[T]:
        """Send the call, and again while a retry may help and the deadline allows it.

        `token` replaces the client's own.
        """
        token = self._token if token is None else token
        deadline = self._clock() + self._deadline_s
        backoff_s = BACKOFF_BASE_S
        is_first = True
        while True:
            last = self._last.get(call.target) if call.is_conditional else None
            came = yield _request(call, token, last[0] if last is not None else None)
            assert came is not None, "a Request needs a Response or a Failure"
            if isinstance(came, Failure):
                # The server may close a kept connection at any time: retried without a pause, once.
                is_stale = came.was_reused and is_first
                wait_s = 0.0 if is_stale else self._jitter() * backoff_s
                if self._clock() + wait_s > deadline:
                    raise _unreachable(call, came.error) from came.error
                reason = "connection"
            elif came.status == 304 and last is not None:
                return call.result(200, last[1])
            else:
                wait_s = _retry_after_s(came) + self._jitter() * backoff_s
                if came.status not in RETRIED_STATUSES or self._clock() + wait_s > deadline:
                    self._keep(call, came)
                    return call.result(came.status, came.content)
                reason = problem(came.status, _decode(came.content) or {}).type
            if on_retry is not None:
                on_retry(reason)
            yield wait_s
            is_first = False
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    def _keep(self, call: Call[Any], response: Response) -> None:
        if not call.is_conditional:
            return
        self._last.pop(call.target, None)
        if response.status == 200 and response.etag is not None:
            self._last[call.target] = (response.etag, response.content)
            if len(self._last) > MAX_ETAGS:
                self._last.popitem(last=False)


def _request(call: Call[Any], token: Token, etag: str | None) -> Request:
    bearer = token if isinstance(token, str) else token()
    headers = {"Authorization": f"Bearer {bearer}", "Accept": "application/json", **call.headers}
    if etag is not None:
        headers["If-None-Match"] = etag
    if call.body is None:
        return Request(call.method, call.target, headers, None)
    headers["Content-Type"] = "application/json"
    return Request(call.method, call.target, headers, json.dumps(call.body).encode())


def _retry_after_s(response: Response) -> float:
    """Retry-After in seconds, bounded; the sidecar never sends a date."""
    text = response.retry_after
    requested_s = float(text) if text is not None and text.isdigit() else 0.0
    return min(requested_s, MAX_RETRY_AFTER_S)


def _unreachable(call: Call[Any], error: Exception) -> Unreachable:
    return Unreachable(f"{call.method} {call.target}: {str(error) or type(error).__name__}")


def _decode(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None
