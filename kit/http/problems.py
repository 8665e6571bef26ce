"""Problems that a caller can act on (RFC 9457).

One class per problem: its slug is the `type`, its docstring the `title`. A handler raises it,
one middleware renders it (`kit.http.routing`). Any other exception becomes a bare
`internal-error` with the request's id; its cause goes to the log only.
"""

import inspect
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import msgspec


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field of a request."""

    field: str
    expected: str


class ProblemDocument(msgspec.Struct, omit_defaults=True):
    """The body of every response that is not a success (application/problem+json)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str = ""
    errors: list[FieldError] = []
    write_id: str | None = None


class Problem(Exception):
    """Unspecified problem."""

    slug: str = "internal-error"
    status: int = 500

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors)
        self.members = members
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            # Retry-After counts whole seconds; rounding up keeps "not before" true.
            self.headers["Retry-After"] = str(max(1, -int(-retry_after_s // 1)))

    @classmethod
    def title(cls) -> str:
        return inspect.cleandoc(cls.__doc__ or cls.slug).splitlines()[0].removesuffix(".")

    def document(self) -> dict[str, Any]:
        """The problem as JSON-ready members, without the request's id."""
        document: dict[str, Any] = {
            "type": self.slug,
            "title": self.title(),
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = [msgspec.to_builtins(error) for error in self.errors]
        return document | self.members


class InternalError(Problem):
    """Internal error."""


class InvalidRequest(Problem):
    """The request does not have the form this call takes."""

    slug = "invalid-request"
    status = 400


class NoSuchRoute(Problem):
    """No such path."""

    slug = "no-such-route"
    status = 404


class MethodNotAllowed(Problem):
    """Method not allowed."""

    slug = "method-not-allowed"
    status = 405


class BodyTooLarge(Problem):
    """Request body too large."""

    slug = "body-too-large"
    status = 413


class HeadTooLarge(Problem):
    """Request head too large."""

    slug = "head-too-large"
    status = 431


class BodyIncomplete(Problem):
    """The connection or the encoding of the request body ended early."""

    slug = "body-incomplete"
    status = 400


class BodyTooSlow(Problem):
    """Request body timeout."""

    slug = "body-too-slow"
    status = 408


class Overloaded(Problem):
    """Server overloaded."""

    slug = "overloaded"
    status = 503


class UnsupportedMediaType(Problem):
    """Unsupported media type."""

    slug = "unsupported-media-type"
    status = 415


def slugs_in(*modules: ModuleType) -> set[str]:
    """The slugs of the problems that these modules define or import."""
    return {
        found.slug
        for module in modules
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Problem)
    }


def invalid_field(field: str, expected: str) -> InvalidRequest:
    """The `invalid-request` for one field that is wrong."""
    return InvalidRequest(f"{field}: {expected}", errors=[FieldError(field, expected)])
