"""Valid and invalid requests generated from a service's OpenAPI document.

Every part of a request is drawn from its schema, or from what callers get wrong. The response is
validated by the same document: the call documents its status, its body fits the schema, and every
response that is not a success is a problem of docs/problems.md.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

import jsonschema
from hypothesis import strategies as st

Json: TypeAlias = Any

PAGE = (Path(__file__).parents[2] / "docs" / "problems.md").read_text()
DOCUMENTED = {
    slug: {int(status) for status in re.findall(r"\d+", statuses)}
    for slug, statuses in re.findall(r"^\| `([a-z0-9-]+)` \| ([0-9, ]+) \|", PAGE, re.MULTILINE)
}
OF_ANY_CALL = {400, 404, 405}
"""Statuses of a path that no longer matches this call."""
WAITS = {"wait", "timeout"}
SHORT_S = 0.05  # the services honour a requested wait of up to a minute

# Limits of what the services store, and texts that some layer interprets.
NUMBERS = st.sampled_from(
    [0, -1, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 1.5, -0.0, 1e308]
)
TEXTS = st.sampled_from(
    [
        *("", " ", "\x00", "a\x00b", "\u202e", "\ufeff", "%00", "%2e%2e", "../../x", "é"),
        *("'; drop table x", "{}", "null", "\U0001f600" * 40, "x" * 3000, "a,b", "op-1"),
        *("vfs:///wid/1/eid/1/runtimestatistics", "RUNNING"),
    ]
) | st.text(max_size=20)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
BROKEN_BODIES = st.sampled_from(
    [
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b"\x00", b'{"a":1,"a":2}', b'{"a": NaN}'),
        *(b'"\\ud800"', b'{"\\ud800": 1}', b'{"result":"\\ud800"}'),
        *(b"[" * 20_000, b'{"a":' * 5_000, b"1" * 20_000, b" " * 100_000),
        b'{"name": "' + b"\\u0000" * 10 + b'"}',
    ]
)


@dataclass(frozen=True)
class Operation:
    """One call of the document."""

    document: Mapping[str, Any]
    method: str
    path: str
    details: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def requests(self, known: Mapping[str, Any]) -> "st.SearchStrategy[Request]":
        """Requests of this call; `known` has existing values by parameter name."""
        parameters = self.details.get("parameters", [])
        places: dict[str, dict[str, st.SearchStrategy[Any]]] = {"path": {}, "query": {}}
        for parameter in parameters:
            if parameter["in"] in places:
                name = parameter["name"]
                values = self.values(parameter["schema"]) | TEXTS | NUMBERS
                if name in known:
                    values = mostly(st.just(known[name]), values)
                places[parameter["in"]][name] = values
        body: st.SearchStrategy[bytes | None] = st.none()
        content = self.details.get("requestBody", {}).get("content", {})
        if "application/json" in content:
            fitting = self.values(content["application/json"]["schema"], known)
            body = mostly(fitting.map(encoded), ANYTHING.map(encoded), BROKEN_BODIES)
        required = {p["name"] for p in parameters if p.get("required")}
        query = st.fixed_dictionaries(
            {name: value for name, value in places["query"].items() if name in required},
            optional={n: v for n, v in places["query"].items() if n not in required},
        )
        odd_query = st.dictionaries(TEXTS, TEXTS, max_size=2)
        return st.builds(
            Request,
            method=st.just(self.method),
            path=st.fixed_dictionaries(places["path"]).map(self._filled),
            query=mostly(query, odd_query),
            body=body,
            content_type=st.sampled_from(["application/json"] * 6 + ["text/plain", "", "a/b;;"]),
        )

    def _filled(self, values: Mapping[str, Any]) -> str:
        path = self.path
        for name, value in values.items():
            path = path.replace(f"{{{name}}}", quote(text_of(value), safe="") or "%20")
        return path

    def values(
        self, schema: Mapping[str, Any], known: Mapping[str, Any] | None = None
    ) -> st.SearchStrategy[Any]:
        """Values that mostly fit the schema; `ANYTHING` adds the edges."""
        known = known or {}
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return st.deferred(
                lambda: self.values(self.document["components"]["schemas"][name], known)
            )
        if "anyOf" in schema:
            return st.one_of(*(self.values(option, known) for option in schema["anyOf"]))
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        match schema.get("type"):
            case "object":
                return self._objects(schema, known)
            case "array":
                items = self.values(schema.get("items", {}), known)
                return st.lists(items, min_size=schema.get("minItems", 0), max_size=3)
            case "integer":
                return st.integers(schema.get("minimum", -(2**40)), schema.get("maximum", 2**40))
            case "number":
                return st.floats(schema.get("minimum", 0), schema.get("maximum", 1e6))
            case "boolean":
                return st.booleans()
            case "null":
                return st.none()
            case "string":
                texts = TEXTS.map(lambda text: text[: schema.get("maxLength", 3000)])
                pattern = schema.get("pattern", "")
                if pattern and not pattern.startswith("^[^"):  # not merely what it must not have
                    return st.from_regex(pattern)
                fits = re.compile(pattern).search
                return texts.filter(lambda text: bool(fits(text)))
        return ANYTHING

    def _objects(
        self, schema: Mapping[str, Any], known: Mapping[str, Any]
    ) -> st.SearchStrategy[Any]:
        properties = schema.get("properties", {})
        if not properties:
            extra = schema.get("additionalProperties")
            values = self.values(extra, known) if isinstance(extra, dict) else ANYTHING
            return st.dictionaries(TEXTS, values, max_size=3)
        drawn = {}
        for name, value in properties.items():
            drawn[name] = self.values(value, known)
            if name in known:
                drawn[name] = mostly(st.just(known[name]), drawn[name])
        required = set(schema.get("required", []))
        fitting = st.fixed_dictionaries(
            {name: value for name, value in drawn.items() if name in required},
            optional={name: value for name, value in drawn.items() if name not in required},
        )
        wrong = st.builds(
            lambda fits, name, value: {**fits, name: value},
            fitting,
            st.sampled_from(sorted(properties)) | TEXTS,
            ANYTHING,
        )
        return mostly(fitting, wrong)

    def check(self, status: int, content_type: str, body: bytes) -> None:
        """Fails for a response that the document does not describe.

        A default response stands for problems of the caller's (4xx) and never for a 5xx.
        """
        responses = self.details["responses"]
        is_default = "default" in responses and 400 <= status < 500
        is_documented = str(status) in responses or status in OF_ANY_CALL or is_default
        assert is_documented, f"{self} returned {status}: {body[:500]!r}"
        if status >= 400:
            assert content_type.startswith("application/problem+json"), content_type
            problem = json.loads(body)
            slug = problem["type"]
            assert status in DOCUMENTED.get(slug, ()), f"{slug} with {status} is not documented"
            assert problem["status"] == status
            assert problem["title"]
            assert isinstance(problem["detail"], str)
            assert problem["request_id"]
            return
        schema = responses[str(status)].get("content", {})
        if "application/json" in schema:
            assert content_type.startswith("application/json"), content_type
            whole = {**schema["application/json"]["schema"], "components": self._components}
            jsonschema.Draft202012Validator(whole).validate(json.loads(body))

    @property
    def _components(self) -> Any:
        return self.document["components"]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, Any]
    body: bytes | None
    content_type: str

    @property
    def target(self) -> str:
        given = {name: self._short(name, value) for name, value in self.query.items()}
        query = urlencode({n: text_of(v) for n, v in given.items()}, errors="surrogatepass")
        return f"{self.path}?{query}" if query else self.path

    @property
    def fits_a_head(self) -> bool:
        """Whether an HTTP parser accepts it: at most 8 KiB for the target and for each header.

        The assertion contains the target again, in base64url.
        """
        return len(self.target) < 5000

    def _short(self, name: str, value: Any) -> Any:
        is_long = name in WAITS and isinstance(value, int | float) and 0 < value < 1e9
        return SHORT_S if is_long else value


def mostly(
    usual: st.SearchStrategy[Any], *others: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    """The usual in four of five draws, so that a request with one error passes the first check."""
    return st.integers(0, 4).flatmap(lambda n: st.one_of(*others) if n == 4 else usual)


def operations(document: Mapping[str, Any]) -> list[Operation]:
    return [
        Operation(document, method.upper(), path, details)
        for path, methods in document["paths"].items()
        for method, details in methods.items()
    ]


def text_of(value: Any) -> str:
    """The value's text in a path or a query."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return value if isinstance(value, str) else str(value)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")
