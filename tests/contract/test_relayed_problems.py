"""The sidecar's document says of every call which of central's problems it may pass on."""

from typing import Any

import pytest

from central.app import ROUTES as CENTRAL_ROUTES
from sidecar.relayed import RELAYED
from sidecar.server.app import ROUTES, openapi

DOCUMENT: dict[str, Any] = openapi()
BINDING = ("POST", "/v1/executions/{execution_id}/binding")
CENTRAL = {
    (route.method, route.path): {
        problem.slug: problem.status
        for problem in route.problems
        # The sidecar always signs and never lacks a token; 503 becomes central-unavailable.
        if problem.slug not in {"assertion-missing", "token-missing"} and problem.status != 503
    }
    for route in CENTRAL_ROUTES
}
SAME = {
    "POST /api/internal/execution-metadata/create": ("POST", "/v1/executions"),
    "GET /api/internal/execution-metadata/latest": (
        "GET",
        "/v1/workflows/{workflow_id}/executions/latest",
    ),
    "GET /api/internal/execution-metadata/{eid}/port-result": (
        "GET",
        "/v1/executions/{execution_id}/result-uri",
    ),
    "GET /api/internal/execution-metadata/{eid}/port-results": (
        "GET",
        "/v1/executions/{execution_id}/uris",
    ),
}
"""Drop-in routes, by the call of central that answers them; the others only bind."""


def expected_of(route: Any) -> dict[str, int]:
    """What central may answer on the way of this call."""
    call = (route.method, route.path)
    if "/v1/writes" in route.path or route.path == "/v1/flush":
        return CENTRAL["GET", "/v1/token"]
    if route.tag == "drop-in":
        return CENTRAL[SAME.get(f"{route.method} {route.path}", BINDING)]
    if 202 in route.statuses or route.method == "DELETE":
        return CENTRAL[BINDING] | CENTRAL[call]
    return CENTRAL[call]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_each_call_says_what_central_may_answer(route: Any) -> None:
    assert RELAYED[route.method, route.path] == expected_of(route)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_the_document_has_every_status_and_slug(route: Any) -> None:
    responses = DOCUMENT["paths"][route.path][route.method.lower()]["responses"]
    own: dict[str, int] = {problem.slug: problem.status for problem in route.problems}

    for slug, status in {**RELAYED[route.method, route.path], **own}.items():
        assert slug in responses[str(status)]["description"]
