"""One call and its answer, without I/O: what the two clients have in common.

Every call may be made again: a POST that changes something carries an idempotency key of its
own from the start, the rest changes nothing or changes the same.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")

PASSING = frozenset({429, 503})
"""Answers that say: not now."""
LONGEST_PAUSE_S = 5.0


class ApiProblem(Exception):
    """The call was answered with a problem (RFC 9457). docs/problems.md has them all.

    What is no answer of a sidecar at all is `http-` and its status.
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
        """The write it is about, where it is about one."""
        return self.document.get("write_id")

    @property
    def fields(self) -> dict[str, str]:
        """The fields of a request that were wrong, and what was expected of each."""
        return {e["field"]: e["expected"] for e in self.document.get("errors", ())}


class Unreachable(Exception):
    """Nobody answered for as long as the caller's patience lasted."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how its answer is read. `absent`: the problems that only mean None."""

    method: str
    target: str
    read: Callable[[Any], T]
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()

    def content(self) -> bytes | None:
        return None if self.body is None else json.dumps(self.body).encode()

    def all_headers(self, token: str) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        return headers | dict(self.headers)

    def outcome(self, status: int, content: bytes) -> T:
        """The answer, as its type. Raises `ApiProblem`."""
        answer = decoded(content)
        if 200 <= status < 300 and isinstance(answer, dict):
            return self.read(answer)
        problem = ApiProblem(status, answer if isinstance(answer, dict) else {})
        if problem.type in self.absent:
            return None  # type: ignore[return-value]  # such a call's T has None in it
        raise problem


def unreachable(call: Call[Any], error: Exception) -> Unreachable:
    """The last that was seen of a call; some errors have no words of their own."""
    return Unreachable(f"{call.method} {call.target}: {str(error) or type(error).__name__}")


def pause_s(retry_after: str | None) -> float:
    """How long to wait before the next try, as the answer asks."""
    asked = float(retry_after) if retry_after is not None and retry_after.isdigit() else 1.0
    return min(asked, LONGEST_PAUSE_S)


def decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None
