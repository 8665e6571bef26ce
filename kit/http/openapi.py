"""The OpenAPI 3.1 document of a table of routes, generated from the types that validate."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import msgspec
from aiohttp import web

from kit.http.problems import (
    BodyTooLarge,
    BodyTooSlow,
    InvalidRequest,
    Overloaded,
    Problem,
    ProblemDocument,
    UnsupportedMediaType,
)
from kit.http.routing import Route

_REF_TEMPLATE = "#/components/schemas/{name}"


_USER = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}


def add_openapi(app: web.Application, document: Callable[[], Mapping[str, Any]]) -> None:
    """Serves `GET /openapi.json`. Made at the first request: its 10 ms are not a start's."""

    @cache
    def content() -> bytes:
        return msgspec.json.encode(document())

    async def serve_openapi(_: web.Request) -> web.Response:
        return web.Response(body=content(), content_type="application/json")

    app.router.add_get("/openapi.json", serve_openapi)


def openapi_document(
    title: str,
    version: str,
    description: str,
    routes: Sequence[Route],
    other_problems: str = "",
    schemes: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """`other_problems` describes the problems that any call may return besides those of its
    route. `schemes` are the security schemes besides a user's token.

    Examples are those of the field types (ADR 0041).
    """
    types: list[Any] = [ProblemDocument]
    for route in routes:
        types += [kind for kind in (route.body_type, route.response_type) if kind is not None]
    unique = list(dict.fromkeys(types))
    schemas, components = msgspec.json.schema_components(unique, ref_template=_REF_TEMPLATE)
    schema_of = dict(zip(unique, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = _operation(route, schema_of)
        if other_problems:
            operation["responses"]["default"] = _problem_response(other_problems, schema_of)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"user": _USER, **schemes},
        },
    }


def _operation(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "tags": [route.tag],
        "security": [{scheme: [] for scheme in choice} for choice in route.security],
        "parameters": _parameters(route),
        "responses": _responses(route, schema_of),
    }
    if route.body_type is not None:
        operation["requestBody"] = {
            "required": not route.body_is_optional,
            "content": {"application/json": {"schema": schema_of[route.body_type]}},
        }
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters = [
        _parameter(name, "path", schema, required=True)
        for name, schema, _ in _properties(route.path_type)
    ]
    parameters += [
        _parameter(name, "query", schema, required=required)
        for name, schema, required in _properties(route.query_type)
    ]
    for name, header in route.headers.items():
        parameter = _parameter(name, "header", header.schema, required=header.is_required)
        parameters.append(parameter | {"description": header.description})
    return parameters


def _parameter(name: str, place: str, schema: Any, *, required: bool) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": schema}


def _properties(kind: type[msgspec.Struct] | None) -> list[tuple[str, Any, bool]]:
    if kind is None:
        return []
    schema = msgspec.json.schema_components([kind])[1][kind.__name__]
    required = schema.get("required", [])
    return [(name, value, name in required) for name, value in schema["properties"].items()]


def _responses(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in route.statuses:
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {"application/json": {"schema": schema_of[route.response_type]}},
        }
    slugs: dict[int, list[str]] = {}
    problems: tuple[type[Problem], ...] = (InvalidRequest, *route.problems)
    if route.body_type is not None:
        problems += (BodyTooLarge, BodyTooSlow, Overloaded, UnsupportedMediaType)
    for raised in problems:
        slugs.setdefault(raised.status, []).append(raised.slug)
    for status, names in sorted(slugs.items()):
        description = f"{HTTPStatus(status).phrase}: {', '.join(sorted(set(names)))}"
        responses[str(status)] = _problem_response(description, schema_of)
    return responses


def _problem_response(description: str, schema_of: dict[Any, Any]) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": schema_of[ProblemDocument]}}
    return {"description": description, "content": content}
