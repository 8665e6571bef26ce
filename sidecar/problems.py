"""The sidecar's own problems, and central's passed on as they are."""

from collections.abc import Mapping
from typing import Any

from kit.http.problems import Problem


class TokenMissing(Problem):
    """User token required."""

    slug = "token-missing"
    status = 401

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class TokenInvalid(Problem):
    """User token invalid."""

    slug = "token-invalid"
    status = 401

    def __init__(self, detail: str) -> None:
        challenge = 'Bearer error="invalid_token"'
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class TokenExpired(TokenInvalid):
    """User token expired."""

    slug = "token-expired"


class RunTokenScope(Problem):
    """Run token not good for this call."""

    slug = "run-token-scope"
    status = 403


class NotLocal(Problem):
    """The request does not come directly from this pod."""

    slug = "not-local"
    status = 403


class UidMismatch(Problem):
    """The named user is not the token's user."""

    slug = "uid-mismatch"
    status = 403


class ExecutionNotFound(Problem):
    """The workflow has no such execution."""

    slug = "execution-not-found"
    status = 404


class UriMismatch(Problem):
    """The URI does not match its row."""

    slug = "uri-mismatch"
    status = 422


class UriConflict(Problem):
    """Another URI is already stored."""

    slug = "uri-conflict"
    status = 409


class ResultUriNotFound(Problem):
    """The port has no stored result."""

    slug = "result-uri-not-found"
    status = 404


class ConsoleNotFound(Problem):
    """The operator has no stored console messages."""

    slug = "console-not-found"
    status = 404


class WriteNotFound(Problem):
    """The caller has no such write, or it was settled too long ago."""

    slug = "write-not-found"
    status = 404


class DeliveryTimeout(Problem):
    """Delivery timeout; the writes stay durable and will be delivered."""

    slug = "delivery-timeout"
    status = 504


class RateLimited(Problem):
    """Rate limit exceeded."""

    slug = "rate-limited"
    status = 429


class SpoolFull(Problem):
    """Spool full."""

    slug = "spool-full"
    status = 503


class SpoolUnavailable(Problem):
    """Spool unavailable."""

    slug = "spool-unavailable"
    status = 503


class SpoolVolumeFull(SpoolUnavailable):
    """No space left on the spool's volume."""

    slug = "spool-volume-full"
    status = 507


class WriteCorrupted(Problem):
    """Write corrupted in the spool; it may or may not have been committed."""

    slug = "write-corrupted"
    status = 500


class WriteSkipped(Problem):
    """Write skipped by an operator."""

    slug = "skipped-by-operator"
    status = 409


class CentralUnavailable(Problem):
    """Central unavailable, and the sidecar has no cached response."""

    slug = "central-unavailable"
    status = 503

    def __init__(
        self,
        detail: str,
        *,
        retry_after_s: float,
        has_retry_after: bool = False,
        from_unknown_server: bool = False,
        response_status: int | None = None,
        timed_out: bool = False,
    ) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s
        self.has_retry_after = has_retry_after
        """Whether there was a response (429, 503) that named the wait."""
        self.from_unknown_server = from_unknown_server
        """Whether the response is not central's: a proxy's page, another service."""
        self.response_status = response_status
        """The response's own status, if there was one."""
        self.timed_out = timed_out
        """Whether a connection was there and no response came in time."""


class UpstreamProblem(Problem):
    """A problem of central, passed on as it is."""

    def __init__(self, document: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__(str(document.get("detail", "")), headers=headers)
        self.slug = str(document["type"])
        self.status = int(document["status"])
        retry_after = headers.get("Retry-After", "")
        self.retry_after_s = (
            float(retry_after)
            if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 19
            else 0.0
        )
        self._document = {key: value for key, value in document.items() if key != "request_id"}

    def document(self) -> dict[str, Any]:
        return self._document | self.members
