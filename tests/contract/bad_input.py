"""Calls with one error each, generated from a service's routes and its OpenAPI document."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode


@dataclass(frozen=True)
class InvalidCall:
    """A call with one error."""

    name: str
    target: str
    body: Any
    field: str
    limit: str = ""
    """A text that the problem must contain."""


@dataclass(frozen=True)
class Api:
    """A service's routes and the document it serves."""

    routes: Sequence[Any]
    document: dict[str, Any]

    def with_parameters(self) -> list[Any]:
        return [route for route in self.routes if list(self.invalid_parameters(route))]

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

    def invalid_parameters(self, route: Any) -> Iterator[InvalidCall]:
        valid, body = self.valid_parameters(route), self.valid_body(route)
        for parameter in self._operation(route)["parameters"]:
            name, schema = parameter["name"], parameter["schema"]
            if parameter["in"] == "header":
                continue
            for error, value, limit in self._invalid_values(schema):
                target = self.target_of(route, {**valid, name: value})
                yield InvalidCall(f"{name} {error}", target, body, name, limit)
            if self._resolved(schema).get("type") in {"integer", "number", "boolean"}:
                target = self.target_of(route, {**valid, name: "much"})
                yield InvalidCall(f"{name} no number", target, body, name)
            if parameter["required"] and parameter["in"] == "query":
                remaining = {key: value for key, value in valid.items() if key != name}
                target = self.target_of(route, remaining)
                yield InvalidCall(f"{name} missing", target, body, name, "required")
        query = route.query_type
        if query is None or query.__struct_config__.forbid_unknown_fields:
            target = self.target_of(route, {**valid, "colour": "red"})
            yield InvalidCall("an unknown parameter", target, body, "colour", "no query parameter")

    def invalid_bodies(self, route: Any) -> Iterator[InvalidCall]:
        valid, target = self.valid_body(route), self.target_of(route)
        schema = self._resolved(self._body_schema(route))
        for name in schema.get("required", ()):
            remaining = {key: value for key, value in valid.items() if key != name}
            yield InvalidCall(f"{name} missing", target, remaining, name, "required")
        for name, member in schema["properties"].items():
            yield InvalidCall(f"{name} of a wrong type", target, {**valid, name: [[1]]}, name)
            for error, value, limit in self._invalid_values(member):
                yield InvalidCall(f"{name} {error}", target, {**valid, name: value}, name, limit)
        if route.body_type.__struct_config__.forbid_unknown_fields:
            unknown = {**valid, "colour": "red"}
            yield InvalidCall("an unknown field", target, unknown, "colour", "no field")
        yield InvalidCall("a list", target, [1], "body", "object")

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

    def _invalid_values(self, schema: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
        """The error's name, a value with it, and a text that the problem must contain."""
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


def check(call: InvalidCall, status: int, problem: Any) -> None:
    """The response is one problem that names the one wrong field."""
    assert (status, problem["type"]) == (400, "invalid-request"), (call, problem)
    [error] = problem["errors"]
    assert error["field"].partition("[")[0] == call.field, (call, problem)
    assert call.limit in error["expected"], (call, problem)
    assert call.field in problem["detail"], (call, problem)


NO_JSON: tuple[tuple[bytes, str, tuple[int, str]], ...] = (
    (b"{", "application/json", (400, "invalid-request")),
    (b"", "application/json", (400, "invalid-request")),
    (b"\xff", "application/json", (400, "invalid-request")),
    (b"[" * 100_000, "application/json", (400, "invalid-request")),
    (b"{}", "application/x-www-form-urlencoded", (415, "unsupported-media-type")),
    (b"x" * (2**20 + 1), "application/json", (413, "body-too-large")),
)
"""A body, its content type, and the outcome."""
