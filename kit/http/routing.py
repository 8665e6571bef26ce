"""Routes: one declaration says what a call takes, returns and may refuse.

A handler's signature is the declaration. `RouteTable` reads from its annotations the types of
path, query, body and response, and from its docstring the summary:

    routes = RouteTable(Route, tag="executions")

    @routes.get("/v1/executions/{execution_id}", problems=(ExecutionNotFound,))
    async def fetch_execution(
        request: TypedRequest[Caller, ExecutionPath, None, None],
    ) -> Response[Execution]:
        \"\"\"An execution's row.\"\"\"

The same types validate the request and describe it in OpenAPI (`kit.http.openapi`), so the
document cannot drift from the service. The steps of a request: request id, authentication (the
service's own `Authenticate`, which reads the body once the head is verified), path, query, body,
handler. Whatever is raised on the way becomes
a problem document.
"""

import inspect
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import NoneType, UnionType
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar, Unpack, get_args

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from kit.http import problems
from kit.http.body_reader import BodyReader, RequestBody
from kit.http.failed_calls import ids_of, log_failed_call, trace_id
from kit.http.large_decoder import LARGE_BYTES
from kit.http.metrics import RequestMetrics
from kit.http.problems import Problem
from kit.http.validation import parse_body, parse_parameters

MIB = 1024 * 1024
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
ROUTE: web.RequestKey[str] = web.RequestKey("route", str)
"""The route's template (`/v1/executions/{execution_id}`), the only form metrics may use."""
PROBLEM = web.ResponseKey("problem", str)
"""The slug of a response that is a problem document."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")

Caller = TypeVar("Caller", covariant=True)
Path = TypeVar("Path")
Query = TypeVar("Query")
Body = TypeVar("Body")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class TypedRequest(Generic[Caller, Path, Query, Body]):
    """An authenticated and validated request. A part that the call does not have is None."""

    http: web.Request
    caller: Caller
    path: Path
    query: Query
    body: Body
    raw_body: bytes

    @property
    def app(self) -> web.Application:
        return self.http.app


@dataclass(frozen=True, slots=True)
class Response(Generic[Result]):
    """What a handler returns: a value or its members to encode, or its JSON."""

    body: Result | dict[str, Any] | bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Handler: TypeAlias = Callable[[TypedRequest[Any, Any, Any, Any]], Awaitable[Response[Any]]]


@dataclass(frozen=True, slots=True)
class Header:
    """What a request header does, and the JSON Schema of its value."""

    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    is_required: bool = False


class RouteOptions(TypedDict, total=False):
    """What a handler's signature cannot say."""

    tag: str
    statuses: tuple[int, ...]
    problems: tuple[type[Problem], ...]
    headers: Mapping[str, Header]
    max_body_bytes: int
    decode: Callable[[bytes], Any]


@dataclass(frozen=True, kw_only=True)
class Route:
    """One call of the API. A type that is None means: the call has no such part."""

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    caller_type: Any
    path_type: Any
    query_type: Any
    body_type: Any
    body_is_optional: bool
    response_type: Any
    statuses: tuple[int, ...] = (200,)
    """Of the successful responses, all of the response type."""
    problems: tuple[type[Problem], ...] = ()
    headers: Mapping[str, Header] = field(default_factory=dict)
    """Request headers of this call's own, with what they do, for OpenAPI."""
    security: tuple[tuple[str, ...], ...] = (("user",),)
    """Which of the document's security schemes this call needs together; each a choice."""
    max_body_bytes: int = MIB
    decode: Callable[[bytes], Any] | None = None
    """Reads the body as `body_type`, where the type's own decoder would refuse too much."""


RouteT = TypeVar("RouteT", bound=Route)
HandlerT = TypeVar("HandlerT", bound=Handler)


class RouteTable(Generic[RouteT]):
    """The routes of one module in the order of their declaration.

    `problems` are those that every call of the module has besides its own.
    """

    def __init__(
        self, route_type: type[RouteT], *, tag: str, problems: tuple[type[Problem], ...] = ()
    ) -> None:
        self._route_type = route_type
        self._tag = tag
        self._problems = problems
        self._routes: list[RouteT] = []

    def __iter__(self) -> Iterator[RouteT]:
        return iter(self._routes)

    def get(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[HandlerT], HandlerT]:
        return self._declare("GET", path, options)

    def post(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[HandlerT], HandlerT]:
        return self._declare("POST", path, options)

    def put(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[HandlerT], HandlerT]:
        return self._declare("PUT", path, options)

    def patch(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[HandlerT], HandlerT]:
        return self._declare("PATCH", path, options)

    def delete(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[HandlerT], HandlerT]:
        return self._declare("DELETE", path, options)

    def _declare(
        self, method: str, path: str, options: RouteOptions
    ) -> Callable[[HandlerT], HandlerT]:
        merged: RouteOptions = {"tag": self._tag, **options}
        merged["problems"] = (*self._problems, *options.get("problems", ()))

        def declare(handler: HandlerT) -> HandlerT:
            request_type, response_type = handler.__annotations__.values()
            caller_type, *parts = get_args(request_type)
            path_type, query_type, body_type = (None if p is NoneType else p for p in parts)
            body_is_optional = isinstance(body_type, UnionType)  # Body | None
            if body_is_optional:
                body_type, _ = get_args(body_type)
            route = self._route_type(
                method=method,
                path=path,
                handler=handler,
                summary=(inspect.getdoc(handler) or "").partition("\n")[0].removesuffix("."),
                caller_type=caller_type,
                path_type=path_type,
                query_type=query_type,
                body_type=body_type,
                body_is_optional=body_is_optional,
                response_type=get_args(response_type)[0],
                **merged,
            )
            self._routes.append(route)
            return handler

        return declare


Authenticate: TypeAlias = Callable[[web.Request, Route, RequestBody], Awaitable[Caller]]
"""Returns the caller or raises `Problem`: the service's own.

It verifies the head of the request first, and then reads the body for the owner that it found.
"""


def add_routes(
    app: web.Application,
    routes: Iterable[Route],
    authenticate: Authenticate[Caller],
    body_reader: BodyReader | None = None,
) -> None:
    body_reader = body_reader or BodyReader()
    methods: dict[str, set[str]] = {}
    for route in routes:
        app.router.add_route(route.method, route.path, _adapt(route, authenticate, body_reader))
        methods.setdefault(route.path, set()).add(route.method)
    for path, allowed in methods.items():
        # Without this, another method of a literal path matches a template that fits it:
        # PATCH /v1/executions/delete would be PATCH /v1/executions/{execution_id}.
        app.router.add_route("*", path, _refuse_method(sorted(allowed)))


def _refuse_method(allowed: list[str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, allowed)

    return refuse


def _adapt(
    route: Route, authenticate: Authenticate[Caller], body_reader: BodyReader
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    decode = _body_decoder(route)

    async def serve(request: web.Request) -> web.StreamResponse:
        request[ROUTE] = route.path
        async with body_reader.body(request, route.max_body_bytes) as received:
            caller = await authenticate(request, route, received)
            raw_body = received.raw
            path = parse_parameters(request.match_info, route.path_type, "path")
            query = parse_parameters(_single_values(request), route.query_type, "query")
            body = None
            if decode is None:
                _check_no_body(raw_body)
            elif raw_body or not route.body_is_optional:
                _check_json(request)
                if len(raw_body) <= LARGE_BYTES:
                    body = decode(raw_body)
                else:
                    body = await body_reader.large_decoder.decode(decode, raw_body)
            typed = TypedRequest(request, caller, path, query, body, raw_body)
            return json_response(await route.handler(typed))

    return serve


def _body_decoder(route: Route) -> Callable[[bytes], Any] | None:
    if route.body_type is None or route.decode is not None:
        return route.decode
    decoder = msgspec.json.Decoder(route.body_type)
    return lambda raw_body: parse_body(raw_body, decoder)


def _check_no_body(raw_body: bytes) -> None:
    """Some clients send an empty object with every POST, and it says nothing."""
    if raw_body and b"".join(raw_body.split()) != b"{}":
        raise problems.invalid_field("body", "this call takes no body")


def _check_json(request: web.Request) -> None:
    if request.content_type != "application/json":
        raise problems.UnsupportedMediaType("Content-Type: expected application/json")
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise problems.UnsupportedMediaType("Content-Type: expected UTF-8, as JSON always is")


def json_response(response: Response[Any]) -> web.Response:
    body = response.body
    return web.Response(
        body=body if isinstance(body, bytes) else msgspec.json.encode(body),
        status=response.status,
        headers=response.headers,
        content_type="application/json",
    )


def _single_values(request: web.Request) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in request.query.items():
        if name in values:
            raise problems.invalid_field(name, "may be given once")
        values[name] = value
    return values


def measured(requests: RequestMetrics) -> Middleware:
    """A middleware that records each request; it belongs around `problem_middleware`."""

    @web.middleware
    async def measure(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        started_at = requests.clock()
        response = await handler(request)
        route = request.get(ROUTE, "none")
        requests.record(
            route,
            request.method if route != "none" else "none",
            response.status,
            started_at,
            problem=response.get(PROBLEM),
            trace_id=trace_id(request.headers.get("traceparent")),
        )
        return response

    return measure


@web.middleware
async def problem_middleware(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Gives every request an id, and renders every exception as a problem document."""
    received_id = request.headers.get("X-Request-Id", "")
    request_id = received_id if _REQUEST_ID.fullmatch(received_id) else secrets.token_hex(8)
    request[REQUEST_ID] = request_id
    try:
        response = await handler(request)
    except Problem as raised:
        response = _fail(request, raised, request_id)
    except web.HTTPException as raised:
        response = _fail(request, _from_http_exception(raised), request_id)
    except Exception as error:
        problem = problems.InternalError("see the log")
        response = _fail(request, problem, request_id, error)
    response.headers["X-Request-Id"] = request_id
    return response


def _fail(
    request: web.Request, problem: Problem, request_id: str, error: Exception | None = None
) -> web.Response:
    method, route = request.method, request.get(ROUTE, "none")
    log_failed_call(problem, request_id, method, route, ids_of(request), error)
    return problem_response(problem, request_id)


def problem_response(problem: Problem, request_id: str) -> web.Response:
    response = web.Response(
        body=msgspec.json.encode(problem.document() | {"request_id": request_id}),
        status=problem.status,
        headers=problem.headers,
        content_type="application/problem+json",
    )
    response[PROBLEM] = problem.slug
    return response


def _from_http_exception(raised: web.HTTPException) -> Problem:
    """The problem of an exception that aiohttp raises (routing, malformed requests)."""
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
