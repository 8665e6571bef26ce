"""Logs: what they leave out, by whose limit, and what they never contain."""

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
from kit.http.failed_calls import DESCRIBE_CALLER
from kit.http.logs import LINES_PER_PERIOD, MAX_IDS, PERIOD_S, LimitingHandler, limited_fields
from kit.http.problems import Overloaded, invalid_field
from kit.http.recent_problems import MAX_GROUPS, RecentProblems
from kit.http.routing import problem_middleware

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


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


async def test_a_failed_call_is_found_by_its_request_id_and_names_what_is_known(
    lines: io.StringIO,
) -> None:
    async def overloaded(_: web.Request) -> web.Response:
        raise Overloaded("no slot")

    async def invalid(_: web.Request) -> web.Response:
        raise invalid_field("canary-of-a-body", "is not known")

    app = web.Application(middlewares=[problem_middleware])
    app[DESCRIBE_CALLER] = lambda request: {"user_id": 7, "computing_unit_id": 3}
    app.router.add_get("/v1/executions/{execution_id}", overloaded)
    app.router.add_get("/v1/workflows/{workflow_id}", invalid)
    traced = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01", "X-Request-Id": "mine-1"}
    async with TestClient(TestServer(app)) as client:
        await client.get("/v1/executions/42", headers=traced)
        answered = await (await client.get("/v1/workflows/no-number")).json()
        await client.get("/nowhere/secret-path")

    first, second, third = [json.loads(text) for text in lines.getvalue().splitlines()]
    assert {name: first[name] for name in ("message", "level", "problem", "status", "detail")} == {
        "message": "call failed",
        "level": "warning",
        "problem": "overloaded",
        "status": 503,
        "detail": "no slot",
    }
    assert (first["request_id"], first["trace_id"]) == ("mine-1", TRACE_ID)
    assert (first["execution_id"], first["user_id"], first["computing_unit_id"]) == (42, 7, 3)
    assert (second["level"], second["request_id"]) == ("info", answered["request_id"])
    assert "workflow_id" not in second
    assert third["problem"] == "no-such-route"
    assert "canary" not in lines.getvalue()
    assert "secret-path" not in lines.getvalue()


async def test_an_unforeseen_error_is_logged_once_with_its_traceback(lines: io.StringIO) -> None:
    async def broken(_: web.Request) -> web.Response:
        raise RuntimeError("a bug of ours")

    app = web.Application(middlewares=[problem_middleware])
    app.router.add_get("/", broken)
    async with TestClient(TestServer(app)) as client:
        answered = await (await client.get("/")).json()

    (line,) = [json.loads(text) for text in lines.getvalue().splitlines()]
    assert (line["level"], line["request_id"]) == ("error", answered["request_id"])
    assert "a bug of ours" in line["exception"]


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def limited() -> Iterator[tuple[logging.Logger, io.StringIO, Clock]]:
    """A logger with the handler of a service, on a clock that is advanced by hand."""
    stream, clock = io.StringIO(), Clock()
    handler = LimitingHandler(stream, monotonic=clock)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.Logger("limited")  # noqa: LOG001 (of this test alone)
    logger.addHandler(handler)
    yield logger, stream, clock
    handler.close()


def test_lines_beyond_the_limit_of_their_reason_are_named_in_one(
    limited: tuple[logging.Logger, io.StringIO, Clock],
) -> None:
    logger, stream, clock = limited
    excess = 5
    for number in range(LINES_PER_PERIOD + excess):
        logger.warning("call failed", extra=limited_fields("flood", f"f{number}", n=number))
    logger.warning("call failed", extra=limited_fields("rare", "r0"))
    logger.warning("an event of its own")
    assert len(stream.getvalue().splitlines()) == LINES_PER_PERIOD + 2

    clock.now_s += PERIOD_S
    logger.warning("call failed", extra=limited_fields("flood", "f99"))

    *_, summary, last = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert summary["message"] == "lines left out"
    assert (summary["of"], summary["reason"]) == ("call failed", "flood")
    assert summary["count"] == excess
    assert summary["ids"] == [f"f{LINES_PER_PERIOD + number}" for number in range(excess)]
    assert last["message"] == "call failed"


def test_the_ids_of_a_flood_are_bounded_and_it_is_counted_at_exit(
    limited: tuple[logging.Logger, io.StringIO, Clock],
) -> None:
    logger, stream, _ = limited
    count = LINES_PER_PERIOD + MAX_IDS + 50
    for number in range(count):
        logger.warning("call failed", extra=limited_fields("flood", str(number)))

    logger.handlers[0].close()

    summary = json.loads(stream.getvalue().splitlines()[-1])
    assert (summary["count"], len(summary["ids"])) == (count - LINES_PER_PERIOD, MAX_IDS)


def test_reasons_that_somebody_invents_share_a_limit(
    limited: tuple[logging.Logger, io.StringIO, Clock],
) -> None:
    logger, stream, clock = limited
    for number in range(5 * logs.MAX_REASONS):
        logger.warning("write refused", extra=limited_fields(f"slug-{number}", "w"))

    assert len(stream.getvalue().splitlines()) == logs.MAX_REASONS + LINES_PER_PERIOD

    clock.now_s += PERIOD_S
    logger.warning("write refused", extra=limited_fields("a new one", "w"))

    *_, summary, last = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert (summary["reason"], last["message"]) == ("other", "write refused")


def test_recent_problems_are_grouped_bounded_and_without_ids() -> None:
    clock = Clock()
    problems = RecentProblems(monotonic=clock)
    logger = logging.getLogger("tests.recent")
    with problems.attached():
        logger.info("of no concern", extra=logs.fields(user_id=7))
        for number in range(3):
            clock.now_s += 1
            logger.warning("write refused", extra=limited_fields("late", f"w{number}", user_id=7))
        logger.error("of %s", "canary-of-a-name")
        found = problems.describe()
        for number in range(10 * MAX_GROUPS):
            logger.warning("call failed", extra=limited_fields(f"slug-{number}", "r"))
        assert len(problems.describe()) == MAX_GROUPS
    logger.warning("after the end")

    assert "canary" not in json.dumps(found)
    assert [(p["message"], p["reason"], p["count"]) for p in found] == [
        ("of %s", None, 1),
        ("write refused", "late", 3),
    ]
    assert "after the end" not in {p["message"] for p in problems.describe()}
