"""The OpenAPI 3.1 document of a table of routes, made from the types that validate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import msgspec

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


@dataclass(frozen=True, kw_only=True)
class Example:
    """A call as it is made in the sample world, and its answer. A test makes every one."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of the path and of the query."""
    body: Any = None
    status: int = 200
    answer: Any = None


_NO_EXAMPLE = Example()
_USER = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}


def openapi_document(
    title: str,
    version: str,
    description: str,
    routes: Sequence[Route],
    examples: Mapping[tuple[str, str], Example],
    relayed: Mapping[tuple[str, str], Mapping[str, int]] = MappingProxyType({}),
    schemes: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """`examples` are by method and path template, and so are the problems of another service
    that a call passes on (`relayed`: slug and status). `schemes` are what proves a caller
    besides a user's token.
    """
    types: list[Any] = [ProblemDocument]
    for route in routes:
        types += [kind for kind in (route.body_type, route.response_type) if kind is not None]
    unique = list(dict.fromkeys(types))
    schemas, components = msgspec.json.schema_components(unique, ref_template=_REF_TEMPLATE)
    schema_of = dict(zip(unique, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        example = examples.get((route.method, route.path), _NO_EXAMPLE)
        passed_on = relayed.get((route.method, route.path), {})
        operation = _operation(route, schema_of, example, passed_on)
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


def _operation(
    route: Route, schema_of: dict[Any, Any], example: Example, relayed: Mapping[str, int]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "tags": [route.tag],
        "security": [{scheme: [] for scheme in choice} for choice in route.security],
        "parameters": _parameters(route, example),
        "responses": _responses(route, schema_of, example, relayed),
    }
    if route.body_type is not None:
        content = {"schema": schema_of[route.body_type]}
        if example.body is not None:
            content["example"] = example.body
        operation["requestBody"] = {
            "required": not route.body_is_optional,
            "content": {"application/json": content},
        }
    return operation


def _parameters(route: Route, example: Example) -> list[dict[str, Any]]:
    parameters = [
        _parameter(name, "path", schema, required=True)
        for name, schema, _ in _properties(route.path_type)
    ]
    parameters += [
        _parameter(name, "query", schema, required=required)
        for name, schema, required in _properties(route.query_type)
    ]
    for parameter in parameters:
        if parameter["name"] in example.parameters:
            parameter["example"] = example.parameters[parameter["name"]]
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


def _responses(
    route: Route, schema_of: dict[Any, Any], example: Example, relayed: Mapping[str, int]
) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in route.statuses:
        content = {"schema": schema_of[route.response_type]}
        if status == example.status and example.answer is not None:
            content["example"] = example.answer
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {"application/json": content},
        }
    slugs: dict[int, list[str]] = {}
    problems: tuple[type[Problem], ...] = (InvalidRequest, *route.problems)
    if route.body_type is not None:
        problems += (BodyTooLarge, BodyTooSlow, Overloaded, UnsupportedMediaType)
    for raised in problems:
        slugs.setdefault(raised.status, []).append(raised.slug)
    for slug, problem_status in relayed.items():
        slugs.setdefault(problem_status, []).append(slug)
    for status, names in sorted(slugs.items()):
        responses[str(status)] = {
            "description": f"{HTTPStatus(status).phrase}: {', '.join(sorted(set(names)))}",
            "content": {"application/problem+json": {"schema": schema_of[ProblemDocument]}},
        }
    return responses
