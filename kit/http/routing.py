"""Routes as a table: one entry says what a call takes, answers and may refuse.

The same entry validates the request and describes it in OpenAPI (`kit.openapi`), so the
document cannot drift from the service. A request passes: request id, admission (who calls;
the service's own `Authenticate`), path, query, body, handler. Whatever is raised on the way leaves
as a problem document.
"""

import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec
from aiohttp import web

from kit.http import problems
from kit.http.body_reader import BodyReader
from kit.http.logs import fields
from kit.http.problems import Problem
from kit.http.validation import parse_body, parse_parameters

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
ROUTE: web.RequestKey[str] = web.RequestKey("route", str)
"""The route's template (`/v1/executions/{execution_id}`), the only form metrics may use."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call without path or query parameters."""


Caller = TypeVar("Caller")
Path = TypeVar("Path")
Query = TypeVar("Query")
Body = TypeVar("Body")


@dataclass(frozen=True, slots=True)
class Call(Generic[Caller, Path, Query, Body]):
    """A request that has been admitted and validated."""

    request: web.Request
    caller: Caller
    path: Path
    query: Query
    body: Body
    raw_body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answers: a struct or JSON-ready value, and headers of its own."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Handler: TypeAlias = Callable[[Call[Any, Any, Any, Any]], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Header:
    """What a request header does, and the JSON Schema of its value."""

    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    is_required: bool = False


@dataclass(frozen=True, kw_only=True)
class Route:
    """One call of the API. `body_type` None means that the call takes no body."""

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    path_type: type[msgspec.Struct] = NoParameters
    query_type: type[msgspec.Struct] = NoParameters
    body_type: Any = None
    body_is_optional: bool = False
    max_body_bytes: int = MIB
    answers: Mapping[int, Any] = field(default_factory=dict)
    problems: tuple[type[Problem], ...] = ()
    headers: Mapping[str, Header] = field(default_factory=dict)
    """Request headers of this call's own, with what they do, for OpenAPI."""
    security: tuple[tuple[str, ...], ...] = (("user",),)
    """Which of the document's security schemes this call needs together; each a choice."""
    decode: Callable[[bytes], Any] | None = None
    """Reads the body as `body_type`, where the type's own decoder would refuse too much."""


Authenticate: TypeAlias = Callable[[web.Request, Route, bytes], Awaitable[Caller]]
"""Who calls, or a `Problem`: the service's own, given the request, its route and its body."""


def add_routes(
    app: web.Application,
    routes: Iterable[Route],
    admit: Authenticate[Caller],
    intake: BodyReader | None = None,
) -> None:
    intake = intake or BodyReader()
    methods: dict[str, set[str]] = {}
    for route in routes:
        app.router.add_route(route.method, route.path, _adapt(route, admit, intake))
        methods.setdefault(route.path, set()).add(route.method)
    for path, allowed in methods.items():
        # Or else another method of a literal path is taken for one of a template that it fits:
        # PATCH /v1/executions/delete for PATCH /v1/executions/{execution_id}.
        app.router.add_route("*", path, _refuse_method(sorted(allowed)))


def _refuse_method(allowed: list[str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, allowed)

    return refuse


def _adapt(
    route: Route, admit: Authenticate[Caller], intake: BodyReader
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    decoder = msgspec.json.Decoder(route.body_type) if route.body_type is not None else None

    async def serve(request: web.Request) -> web.StreamResponse:
        request[ROUTE] = route.path
        async with intake.body(request, route.max_body_bytes) as raw_body:
            return json_response(await answer(request, raw_body))

    async def answer(request: web.Request, raw_body: bytes) -> Answer:
        caller = await admit(request, route, raw_body)
        path = parse_parameters(request.match_info, route.path_type, "path")
        query = parse_parameters(_single_values(request), route.query_type, "query")
        body = None
        if decoder is not None and (raw_body or not route.body_is_optional):
            if request.content_type != "application/json":
                raise problems.UnsupportedMediaType("Content-Type: expected application/json")
            body = parse_body(raw_body, decoder) if route.decode is None else route.decode(raw_body)
        elif decoder is None and raw_body:
            raise problems.invalid_field("body", "this call takes no body")
        return await route.handler(Call(request, caller, path, query, body, raw_body))

    return serve


def json_response(answer: Answer) -> web.Response:
    if answer.body is None:
        return web.Response(status=answer.status, headers=answer.headers)
    return web.Response(
        body=answer.body if isinstance(answer.body, bytes) else msgspec.json.encode(answer.body),
        status=answer.status,
        headers=answer.headers,
        content_type="application/json",
    )


def _single_values(request: web.Request) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in request.query.items():
        if name in values:
            raise problems.invalid_field(name, "may be given once")
        values[name] = value
    return values


@web.middleware
async def problem_middleware(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Gives every request an id and turns whatever is raised into a problem document."""
    given = request.headers.get("X-Request-Id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    request[REQUEST_ID] = request_id
    try:
        response = await handler(request)
    except Problem as raised:
        response = problem_response(raised, request_id)
    except web.HTTPException as raised:
        response = problem_response(_of_http_exception(raised), request_id)
    except Exception:
        logger.exception("request failed", extra=fields(request_id=request_id))
        response = problem_response(problems.InternalError("see the log"), request_id)
    response.headers["X-Request-Id"] = request_id
    return response


def problem_response(raised: Problem, request_id: str) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(raised.document() | {"request_id": request_id}),
        status=raised.status,
        headers=raised.headers,
        content_type="application/problem+json",
    )


def _of_http_exception(raised: web.HTTPException) -> Problem:
    """aiohttp's own refusals (routing, malformed requests) in our words."""
    if isinstance(raised, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(raised.allowed_methods))
        return problems.MethodNotAllowed(f"expected {allowed}", headers={"Allow": allowed})
    if isinstance(raised, web.HTTPNotFound):
        return problems.NoSuchRoute("see /openapi.json for the paths of this service")
    if isinstance(raised, web.HTTPRequestEntityTooLarge):
        return problems.BodyTooLarge(raised.text or "the body is too large")
    if 400 <= raised.status < 500:
        return problems.InvalidRequest(HTTPStatus(raised.status).phrase)
    return problems.InternalError(HTTPStatus(raised.status).phrase)
