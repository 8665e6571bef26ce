"""Logs: aiohttp's record of a malformed request contains none of its bytes."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from dev.tokens import mint
from kit.http import logs


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The process's log lines; the tests' own logging is restored afterwards."""
    root, stream = logging.getLogger(), io.StringIO()
    before, level = root.handlers[:], root.level
    logs.configure("info", stream)
    try:
        yield stream
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        for one in logging.getLogger("aiohttp.server").filters[:]:
            logging.getLogger("aiohttp.server").removeFilter(one)


async def test_a_malformed_request_is_logged_without_its_bytes(lines: io.StringIO) -> None:
    token = mint(1, name="n" * 9000)

    async with TestClient(TestServer(web.Application())) as client:
        response = await client.get("/", headers={"Authorization": f"Bearer {token}"})

    assert response.status == 400
    (line,) = [json.loads(text) for text in lines.getvalue().splitlines()]
    assert (line["message"], line["reason"]) == ("malformed request", "LineTooLong")
    assert token[:20] not in lines.getvalue()


async def test_a_handlers_own_error_keeps_its_traceback(lines: io.StringIO) -> None:
    async def broken(_: web.Request) -> web.Response:
        raise RuntimeError("a bug of ours")

    app = web.Application()
    app.router.add_get("/", broken)
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/")).status == 500

    assert "a bug of ours" in lines.getvalue()


def test_the_sidecars_command_imports_no_aiohttp_before_its_settings() -> None:
    """Else aiohttp has loaded the system's CA bundle before `serve` can do without it."""
    program = "import sys, sidecar.__main__; print('aiohttp' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

    assert done.stdout == b"False\n"
