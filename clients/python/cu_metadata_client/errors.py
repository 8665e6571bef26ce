"""What a call raises: a problem (RFC 9457) by its status, or `Unreachable`."""

from collections.abc import Mapping
from typing import Any


class Problem(Exception):
    """The sidecar's problem document; `type` is one of docs/problems.md.

    A response without one (a proxy's page) has the type `http-` and its status.
    """

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        self.status = status
        self.type = str(document.get("type", f"http-{status}"))
        self.title = str(document.get("title", ""))
        self.detail = str(document.get("detail", ""))
        self.document = dict(document)
        super().__init__(f"{self.type} ({status}): {self.detail or self.title}")

    @property
    def write_id(self) -> str | None:
        """The id of the write that the problem is about, if it is about one."""
        return self.document.get("write_id")

    @property
    def fields(self) -> dict[str, str]:
        """The invalid fields of a request, with the expected value of each."""
        return {e["field"]: e["expected"] for e in self.document.get("errors", ())}


class InvalidRequest(Problem):
    """400 or 422: the request can never succeed as it is."""


class Unauthorized(Problem):
    """401: the token is missing, expired or invalid."""


class Forbidden(Problem):
    """403: the user may read this but not change it."""


class NotFound(Problem):
    """404: it does not exist, or the user may not read it."""


class Conflict(Problem):
    """409: it contradicts what is stored."""


class Overloaded(Problem):
    """429 or 503, still after the retries."""


class DeliveryTimeout(Problem):
    """504: the time to wait is over; the write remains durable and will be delivered."""


class Unreachable(Exception):
    """No response before the deadline."""


_BY_STATUS: dict[int, type[Problem]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: InvalidRequest,
    429: Overloaded,
    503: Overloaded,
    504: DeliveryTimeout,
}


def problem(status: int, document: Mapping[str, Any]) -> Problem:
    """The problem, as the class of its status."""
    return _BY_STATUS.get(status, Problem)(status, document)
