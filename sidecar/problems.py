"""The problems the CU can meet at its sidecar. Central's own are passed on as they are."""

from collections.abc import Mapping
from typing import Any

from kit.http.problems import Problem


class TokenMissing(Problem):
    """The call carries no bearer token."""

    slug = "token-missing"
    status = 401

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class TokenExpired(Problem):
    """The bearer token has expired."""

    slug = "token-expired"
    status = 401

    def __init__(self, detail: str) -> None:
        challenge = 'Bearer error="invalid_token"'
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class NotLocal(Problem):
    """The request does not come straight from this pod."""

    slug = "not-local"
    status = 403


class UidMismatch(Problem):
    """The user named is not the token's."""

    slug = "uid-mismatch"
    status = 403


class ExecutionNotFound(Problem):
    """There is no such execution of that workflow."""

    slug = "execution-not-found"
    status = 404


class UriMismatch(Problem):
    """The URI does not belong to the row it was written to."""

    slug = "uri-mismatch"
    status = 422


class UriConflict(Problem):
    """Another URI is stored, and URIs are written once."""

    slug = "uri-conflict"
    status = 409


class ResultUriNotFound(Problem):
    """No result is stored for this port (yet)."""

    slug = "result-uri-not-found"
    status = 404


class ConsoleNotFound(Problem):
    """No console messages are stored for this operator (yet)."""

    slug = "console-not-found"
    status = 404


class WriteNotFound(Problem):
    """There is no such write of yours, or it was settled too long ago."""

    slug = "write-not-found"
    status = 404


class DeliveryTimeout(Problem):
    """The time given was not enough; what is left stays durable and will be delivered."""

    slug = "delivery-timeout"
    status = 504


class RateLimited(Problem):
    """Rate limit exceeded."""

    slug = "rate-limited"
    status = 429


class SpoolFull(Problem):
    """The spool has no room for this write."""

    slug = "spool-full"
    status = 503


class SpoolUnavailable(Problem):
    """The spool's disk did not take the write."""

    slug = "spool-unavailable"
    status = 503


class SpoolVolumeFull(SpoolUnavailable):
    """The spool's volume has no space left."""

    slug = "spool-volume-full"
    status = 507


class WriteCorrupted(Problem):
    """The write was damaged in the spool, and whether central has it cannot be told."""

    slug = "write-corrupted"
    status = 500


class CentralUnavailable(Problem):
    """Central cannot be reached, and the answer is not known here."""

    slug = "central-unavailable"
    status = 503

    def __init__(
        self,
        detail: str,
        *,
        retry_after_s: float,
        has_retry_after: bool = False,
        from_unknown_server: bool = False,
    ) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s
        self.has_retry_after = has_retry_after
        """Whether the answer itself named the wait (429, 503), or nothing was heard."""
        self.from_unknown_server = from_unknown_server
        """Whether something answered that is not central: a proxy's page, a foreign service."""


class UpstreamProblem(Problem):
    """A problem as central gave it."""

    def __init__(self, document: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__(str(document.get("detail", "")), headers=headers)
        self.slug = str(document["type"])
        self.status = int(document["status"])
        asked = headers.get("Retry-After", "")
        self.retry_after_s = (
            float(asked) if asked.isascii() and asked.isdigit() and len(asked) < 19 else 0.0
        )
        self._document = {key: value for key, value in document.items() if key != "request_id"}

    def document(self) -> dict[str, Any]:
        return self._document | self.members
