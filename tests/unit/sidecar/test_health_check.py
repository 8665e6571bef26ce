"""The health check of the computing unit, against real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from kit.http.settings import Address, SettingsError
from sidecar.leases.health_check import HealthProbe, UnitState, unit_probe
from sidecar.settings import HealthCheck, Settings
from tests.databases import free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@asynccontextmanager
async def listening(response: bytes | None) -> AsyncIterator[tuple[Address, list[bytes]]]:
    """A listener that responds with these bytes, or never with None."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.read(1000)
        requests.append(head)
        if response is not None and head:
            writer.write(response)
        elif head:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1]), requests


async def checked(address: Address, target: str | None = None) -> UnitState:
    return await HealthProbe(HealthCheck(address, target), timeout_s=0.2).check()


async def test_a_listening_port_is_up_and_a_refusing_one_is_down() -> None:
    async with listening(None) as (address, _):
        state = await checked(address)

    assert state is UnitState.UP
    assert await checked(Address("127.0.0.1", free_port())) is UnitState.DOWN
    assert await checked(Address("127.0.0.1", free_port()), "/healthcheck") is UnitState.DOWN
    assert await checked(Address("no.such.host.invalid", 80)) is UnitState.UNRESPONSIVE


@pytest.mark.parametrize(
    ("response", "is_up"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 302 Found\r\n\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (b"SSH-2.0-x\r\n", False),
        (b"", False),
        (b"x" * 100_000, False),
        (None, False),
    ],
)
async def test_an_http_check_requires_2xx_or_3xx_in_time(
    response: bytes | None, is_up: bool
) -> None:
    async with listening(response) as (address, requests):
        state = await checked(address, "/healthcheck?x=1")

    assert state is (UnitState.UP if is_up else UnitState.UNRESPONSIVE)
    assert requests[0].startswith(b"GET /healthcheck?x=1 HTTP/1.1\r\nHost: 127.0.0.1:")


async def test_without_a_check_the_unit_is_always_up() -> None:
    assert await unit_probe(None).check() is UnitState.UP


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("", None),
        ("127.0.0.1:8085", HealthCheck(Address("127.0.0.1", 8085))),
        ("[::1]:8085", HealthCheck(Address("::1", 8085))),
        ("http://127.0.0.1:8085", HealthCheck(Address("127.0.0.1", 8085), "/")),
        ("http://cu/api/health?a=b", HealthCheck(Address("cu", 80), "/api/health?a=b")),
    ],
)
def test_the_setting_is_an_address_or_a_url(text: str, check: HealthCheck | None) -> None:
    variables = {"SIDECAR_CENTRAL_URL": "http://central", "SIDECAR_CU_HEALTH": text}

    assert Settings.from_environment(variables).cu_health == check


@pytest.mark.parametrize(
    "text", ["8085", "host", "https://cu/", "ftp://cu", "http://", "http://cu:x/", "http://cu/a b"]
)
def test_an_invalid_setting_is_an_error_that_names_it(text: str) -> None:
    variables = {"SIDECAR_CENTRAL_URL": "http://central", "SIDECAR_CU_HEALTH": text}

    with pytest.raises(SettingsError, match="SIDECAR_CU_HEALTH"):
        Settings.from_environment(variables)
