"""The guard accepts only local requests with one bearer token."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from sidecar.api.services import TOKEN
from sidecar.problems import NotLocal, TokenMissing
from sidecar.server.local_guard import TOKEN_MAX_LENGTH, bearer_token, check_local, guard


def request(
    *headers: tuple[str, str], path: str = "/v1/writes", host: str | None = "localhost:8080"
) -> web.Request:
    hosts = [("Host", host)] if host is not None else []
    return make_mocked_request("GET", path, headers=CIMultiDict([*hosts, *headers]))


async def answered(request: web.Request) -> web.StreamResponse:
    return web.Response(text=request.get(TOKEN, "no token"))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8080", "localhost", "LocalHost:1", "[::1]", "[::1]:65535"],
)
def test_a_local_host_is_accepted(host: str) -> None:
    check_local(request(host=host))


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "example.org",
        "localhost.example.org",
        "example.org:8080",
        "127.0.0.1.example.org",
        "127.0.0.2",
        "0.0.0.0",  # noqa: S104
        "::1",
        "user@localhost",
        "localhost:",
        "localhost:123456",
        "localhost:80x",
        "localhost, example.org",
        "localhost\n",
    ],
)
def test_any_other_host_is_refused(host: str | None) -> None:
    with pytest.raises(NotLocal, match="Host"):
        check_local(request(host=host))


def test_two_host_headers_are_refused() -> None:
    with pytest.raises(NotLocal):
        check_local(request(("Host", "localhost")))


@pytest.mark.parametrize(
    "name",
    [
        "Origin",
        "ORIGIN",
        "Forwarded",
        "X-Forwarded-For",
        "x-forwarded-host",
        "X-Forwarded-Proto",
        "X-Forwarded-Anything",
    ],
)
@pytest.mark.parametrize("value", ["http://localhost:8080", "127.0.0.1", "null", ""])
def test_a_browsers_or_proxys_header_is_refused(name: str, value: str) -> None:
    with pytest.raises(NotLocal, match=f"^{name}: "):
        check_local(request((name, value)))


def test_the_authority_of_an_absolute_target_is_checked() -> None:
    check_local(request(path="http://localhost:8080/v1/writes", host="example.org"))

    for target in (
        "http://example.org/v1/writes",
        "http://localhost@example.org/v1/writes",
        "http://example.org@localhost/v1/writes",
        "HTTP://example.org?x=http://localhost/",
        "http:///v1/writes",
    ):
        with pytest.raises(NotLocal):
            check_local(request(path=target))


@pytest.mark.parametrize(
    "value", ["Bearer abc.d-e_f~+/=", "bearer abc.d-e_f~+/=", "BEARER   abc.d-e_f~+/="]
)
def test_a_bearer_token_is_passed_on_unchanged(value: str) -> None:
    assert bearer_token(request(("Authorization", value))) == "abc.d-e_f~+/="


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        ["Bearerabc"],
        ["Basic abc"],
        ["abc"],
        ["Bearer a b"],
        ["Bearer a,b"],
        ["Bearer =a"],
        ["Bearer \u00e9"],
        ["Bearer a", "Bearer a"],
        ["Bearer " + "a" * (TOKEN_MAX_LENGTH + 1)],
    ],
)
def test_any_other_authorization_is_401(values: list[str]) -> None:
    with pytest.raises(TokenMissing) as refusal:
        bearer_token(request(*(("Authorization", value) for value in values)))

    assert refusal.value.status == 401
    assert refusal.value.headers["WWW-Authenticate"] == "Bearer"


def test_a_token_of_the_maximum_length_is_accepted() -> None:
    token = "a" * TOKEN_MAX_LENGTH

    assert bearer_token(request(("Authorization", f"Bearer {token}"))) == token


async def test_the_handler_finds_the_token_in_the_request() -> None:
    response = await guard(request(("Authorization", "Bearer abc")), answered)

    assert isinstance(response, web.Response)
    assert response.text == "abc"


async def test_only_the_api_description_needs_no_token() -> None:
    response = await guard(request(path="/openapi.json"), answered)

    assert isinstance(response, web.Response)
    assert response.text == "no token"
    for path in ("/v1/writes", "/", "/openapi.json/", "/openapi.jsonx"):
        with pytest.raises(TokenMissing):
            await guard(request(path=path), answered)


async def test_the_api_description_is_local_too() -> None:
    with pytest.raises(NotLocal):
        await guard(request(path="/openapi.json", host="example.org"), answered)
