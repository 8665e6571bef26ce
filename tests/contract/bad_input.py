"""Calls in which one thing is wrong, made from a service's routes and its OpenAPI document."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode


@dataclass(frozen=True)
class Wrong:
    """A call in which one thing is wrong."""

    what: str
    target: str
    body: Any
    field: str
    limit: str = ""
    """What must be said of it."""


@dataclass(frozen=True)
class Api:
    """A service's routes and the document it serves."""

    routes: Sequence[Any]
    document: dict[str, Any]

    def with_parameters(self) -> list[Any]:
        return [route for route in self.routes if list(self.wrong_parameters(route))]

    def with_body(self) -> list[Any]:
        return [route for route in self.routes if route.body_type is not None]

    def with_two_fields(self) -> list[Any]:
        return [route for route in self.with_body() if len(self.required_of(route)) > 1]

    def target_of(self, route: Any, parameters: Mapping[str, Any] | None = None) -> str:
        """Path and query of a call, with valid parameters unless others are given."""
        if parameters is None:
            parameters = self.valid_parameters(route)
        path, query = route.path, {}
        for name, value in parameters.items():
            text = value if isinstance(value, str) else json.dumps(value)
            if "{" + name + "}" in route.path:
                path = path.replace("{" + name + "}", quote(text, safe=""))
            else:
                query[name] = text
        return str(path) + ("?" + urlencode(query) if query else "")

    def without_required(self, route: Any) -> Any:
        """A valid body with every required field set to null."""
        return {**self.valid_body(route), **dict.fromkeys(self.required_of(route))}

    def valid_parameters(self, route: Any) -> dict[str, Any]:
        """The required parameters of path and query."""
        return {
            parameter["name"]: self._valid_value(parameter["schema"])
            for parameter in self._operation(route)["parameters"]
            if parameter["required"] and parameter["in"] != "header"
        }

    def valid_body(self, route: Any) -> Any:
        """A body with the required fields; None if the call takes none."""
        return None if route.body_type is None else self._valid_value(self._body_schema(route))

    def required_of(self, route: Any) -> list[str]:
        """The fields that the call's body must have."""
        return sorted(self._resolved(self._body_schema(route)).get("required", ()))

    def wrong_parameters(self, route: Any) -> Iterator[Wrong]:
        right, body = self.valid_parameters(route), self.valid_body(route)
        for parameter in self._operation(route)["parameters"]:
            name, schema = parameter["name"], parameter["schema"]
            if parameter["in"] == "header":
                continue
            for what, value, limit in self._wrong_values(schema):
                target = self.target_of(route, {**right, name: value})
                yield Wrong(f"{name} {what}", target, body, name, limit)
            if self._resolved(schema).get("type") in {"integer", "number", "boolean"}:
                target = self.target_of(route, {**right, name: "much"})
                yield Wrong(f"{name} no number", target, body, name)
            if parameter["required"] and parameter["in"] == "query":
                rest = {key: value for key, value in right.items() if key != name}
                target = self.target_of(route, rest)
                yield Wrong(f"{name} missing", target, body, name, "required")
        query = route.query_type
        if query is None or query.__struct_config__.forbid_unknown_fields:
            target = self.target_of(route, {**right, "colour": "red"})
            yield Wrong("an unknown parameter", target, body, "colour", "no query parameter")

    def wrong_bodies(self, route: Any) -> Iterator[Wrong]:
        right, target = self.valid_body(route), self.target_of(route)
        schema = self._resolved(self._body_schema(route))
        for name in schema.get("required", ()):
            rest = {key: value for key, value in right.items() if key != name}
            yield Wrong(f"{name} missing", target, rest, name, "required")
        for name, member in schema["properties"].items():
            yield Wrong(f"{name} of a wrong type", target, {**right, name: [[1]]}, name)
            for what, value, limit in self._wrong_values(member):
                yield Wrong(f"{name} {what}", target, {**right, name: value}, name, limit)
        if route.body_type.__struct_config__.forbid_unknown_fields:
            unknown = {**right, "colour": "red"}
            yield Wrong("an unknown field", target, unknown, "colour", "no field")
        yield Wrong("a list", target, [1], "body", "object")

    def _operation(self, route: Any) -> dict[str, Any]:
        operation: dict[str, Any] = self.document["paths"][route.path][route.method.lower()]
        return operation

    def _body_schema(self, route: Any) -> dict[str, Any]:
        content = self._operation(route)["requestBody"]["content"]
        schema: dict[str, Any] = content["application/json"]["schema"]
        return schema

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema itself: a reference followed, "or null" left out."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return self._resolved(self.document["components"]["schemas"][name])
        options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
        return self._resolved(options[0]) if len(options) == 1 else schema

    def _valid_value(self, schema: dict[str, Any]) -> Any:
        """The schema's example, or the least value of its type."""
        schema = self._resolved(schema)
        if "examples" in schema:
            return schema["examples"][0]
        if "anyOf" in schema:
            return self._valid_value(schema["anyOf"][0])
        if "enum" in schema:
            return schema["enum"][0]
        match schema["type"]:
            case "object":
                required = schema.get("required", ())
                return {name: self._valid_value(schema["properties"][name]) for name in required}
            case "array":
                return [self._valid_value(schema["items"])] * schema.get("minItems", 0)
            case "string":
                return "x"
            case "boolean":
                return False
        return schema.get("minimum", 0)

    def _wrong_values(self, schema: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
        """What is wrong, a value that is, and what must be said of it."""
        schema = self._resolved(schema)
        if "maximum" in schema:
            # At 1e9 and beyond a float has no room for one more.
            yield "too large", schema["maximum"] * 2 + 1, str(schema["maximum"])
        if "minimum" in schema:
            yield "too small", schema["minimum"] - 1, str(schema["minimum"])
        if "maxLength" in schema:
            yield "too long", "x" * (schema["maxLength"] + 1), str(schema["maxLength"])
        if "maxItems" in schema:
            yield "too many", [1] * (schema["maxItems"] + 1), str(schema["maxItems"])
        if schema.get("minItems"):
            yield "none", [], str(schema["minItems"])
        if schema.get("type") == "string" and "enum" not in schema:
            yield "a NUL", "a\x00b", ""


def check(wrong: Wrong, status: int, problem: Any) -> None:
    """The answer is one problem, about the one thing that is wrong."""
    assert (status, problem["type"]) == (400, "invalid-request"), (wrong, problem)
    [error] = problem["errors"]
    assert error["field"].partition("[")[0] == wrong.field, (wrong, problem)
    assert wrong.limit in error["expected"], (wrong, problem)
    assert wrong.field in problem["detail"], (wrong, problem)


NO_JSON: tuple[tuple[bytes, str, tuple[int, str]], ...] = (
    (b"{", "application/json", (400, "invalid-request")),
    (b"", "application/json", (400, "invalid-request")),
    (b"\xff", "application/json", (400, "invalid-request")),
    (b"[" * 100_000, "application/json", (400, "invalid-request")),
    (b"{}", "application/x-www-form-urlencoded", (415, "unsupported-media-type")),
    (b"x" * (2**20 + 1), "application/json", (413, "body-too-large")),
)
"""A body, what it says it is, and the outcome."""
