"""The application around the routes: OpenAPI, metrics, connections, headers of all responses."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from openapi_spec_validator import validate
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from central.app import ROUTES, build_app, openapi
from central.auth.authenticator import Authenticator, CredentialPolicy
from central.auth.keys import SharedSecret
from central.auth.source_assertions import AssertionVerifier
from central.auth.user_tokens import TokenVerifier
from central.auth_settings import AssertionSettings, TokenSettings
from central.metrics import Metrics
from dev.tokens import JWT_SECRET, mint
from tests.databases import ROOT

Client = TestClient[web.Request, web.Application]


@asynccontextmanager
async def served(
    clock: Callable[[], float] = lambda: 0.0,
    registry: CollectorRegistry | None = None,
    uniform: Callable[[float, float], float] = lambda low, high: (low + high) / 2,
) -> AsyncIterator[Client]:
    """The application without stores, for calls that are refused before a handler runs."""
    metrics, tokens = Metrics(registry or CollectorRegistry()), TokenSettings(JWT_SECRET)
    authenticator = Authenticator(
        TokenVerifier(SharedSecret(tokens), tokens, metrics),
        AssertionVerifier(AssertionSettings(), metrics),
    )
    app = build_app(
        authenticator, metrics, {}, connection_max_age_s=300.0, clock=clock, uniform=uniform
    )
    async with TestClient(TestServer(app)) as client:
        yield client


CREDENTIALS = {
    CredentialPolicy.USER: [{"user"}, {"user", "source"}],
    CredentialPolicy.USER_AND_SOURCE: [{"user", "source"}],
    CredentialPolicy.SOURCE: [{"source"}],
}


def test_the_commands_of_operators_start_without_web_framework_and_cryptography() -> None:
    program = """
import sys, central.__main__
print(*{"aiohttp", "jwt", "cryptography"} & sys.modules.keys())
"""

    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True, text=True
    )

    assert loaded.stdout == "\n"


def test_the_document_is_openapi_3_1() -> None:
    document = openapi()

    validate(document)
    assert document["openapi"].startswith("3.1")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_described_with_its_problems(route: Any) -> None:
    operation = openapi()["paths"][route.path][route.method.lower()]
    refused = {status for status in operation["responses"] if int(status) >= 400}
    headers = {p["name"] for p in operation["parameters"] if p["in"] == "header"}

    assert {"400", "401", "503"} <= refused
    assert [set(choice) for choice in operation["security"]] == CREDENTIALS[route.needs]
    assert ("Idempotency-Key" in headers) == (route.needs is CredentialPolicy.USER_AND_SOURCE)
    assert route.summary


async def test_openapi_document_needs_no_credentials() -> None:
    async with served() as client, client.get("/openapi.json") as response:
        assert response.status == 200
        assert await response.json() == openapi()


async def test_every_response_has_a_request_id() -> None:
    async with served() as client:
        async with client.get("/nowhere", headers={"X-Request-Id": "mine-1"}) as response:
            problem = await response.json(content_type=None)
            assert response.headers["X-Request-Id"] == problem["request_id"] == "mine-1"
        async with client.get("/nowhere", headers={"X-Request-Id": "not an id"}) as response:
            assert response.headers["X-Request-Id"] not in {"", "not an id"}


async def test_refused_role_gets_the_user_headers() -> None:
    token = mint(6, "RESTRICTED")

    async with (
        served() as client,
        client.get("/v1/token", headers={"Authorization": f"bEaReR {token}"}) as response,
    ):
        assert (response.status, response.headers["X-User-Id"]) == (403, "6")


@pytest.mark.parametrize(
    ("value", "slug"),
    [("Basic dTpw", "token-invalid"), ("Bearer", "token-missing"), ("Bearer é", "token-invalid")],
)
async def test_other_authorization_scheme_gets_401(value: str, slug: str) -> None:
    headers = {"Authorization": value}

    async with served() as client, client.get("/v1/token", headers=headers) as response:
        problem = await response.json(content_type=None)

    assert (response.status, problem["type"]) == (401, slug)


async def test_connections_close_at_max_age() -> None:
    now = 0.0
    async with served(clock=lambda: now) as client:

        async def is_kept() -> bool:
            async with client.get("/openapi.json") as response:
                return response.headers.get("Connection") != "close"

        assert await is_kept()
        now = 299.0
        assert await is_kept()
        now = 300.0
        assert not await is_kept()
        assert await is_kept()  # the next one is young
        now = 10_000.0
        assert not await is_kept()  # silence does not make it younger


async def test_random_paths_do_not_add_labels() -> None:
    registry = CollectorRegistry()
    async with served(registry=registry) as client:
        for number in range(50):
            async with client.get(f"/v1/executions/{number}"):
                pass
            async with client.get(f"/nowhere/{number}"):
                pass
            async with client.request(f"METHOD{number}", "/v1/token"):
                pass

    routes = {
        (sample.labels["route"], sample.labels["method"])
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if "route" in sample.labels
    }
    assert routes == {*((route.path, route.method) for route in ROUTES), ("none", "none")}
