"""The sidecar as a metadata backend: retries are counted, failures become `CallFailed`."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from dev.computing_unit import ComputingUnit
from dev.metadata_backend import CallFailed, NewExecution, Unreachable
from dev.progress import NullReporter
from dev.run_plan import plan_run
from dev.sidecar_backend import SidecarBackend
from dev.texera import SAMPLE_WORKFLOW
from dev.workflow_file import read_workflow


@dataclass
class FakeSidecar:
    """Gives prepared responses in order, and records the requests."""

    responses: list[web.Response] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.raw_path, dict(request.headers)))
        return self.responses.pop(0)


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def sidecar() -> FakeSidecar:
    return FakeSidecar()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def backend(sidecar: FakeSidecar, clock: Clock) -> AsyncIterator[SidecarBackend]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", sidecar.handle)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        async with SidecarBackend(url, "T", deadline_s=30, clock=clock, sleep=clock.sleep) as it:
            yield it


def problem(status: int, slug: str, **headers: str) -> web.Response:
    body = {"type": slug, "title": slug, "status": status, "detail": "in words"}
    return web.json_response(body, status=status, headers=headers)


async def test_retry_waits_for_retry_after_and_is_counted(
    sidecar: FakeSidecar, backend: SidecarBackend, clock: Clock
) -> None:
    later = problem(503, "spool-full", **{"Retry-After": "3"})
    sidecar.responses = [
        later,
        web.json_response({"write_id": "w", "state": "durable"}, status=202),
    ]

    await backend.store_status(1, "RUNNING")

    assert clock.now_s == pytest.approx(3, abs=0.1)
    assert backend.retries == {("store_status", "spool-full"): 1}


async def test_call_fails_at_the_deadline(
    sidecar: FakeSidecar, backend: SidecarBackend, clock: Clock
) -> None:
    sidecar.responses = [problem(503, "spool-full", **{"Retry-After": "5"}) for _ in range(20)]

    with pytest.raises(CallFailed, match="spool-full"):
        await backend.store_status(1, "RUNNING")

    assert clock.now_s == pytest.approx(30, abs=5)


async def test_calls_of_a_run_go_by_its_token_and_others_by_the_users(
    sidecar: FakeSidecar, backend: SidecarBackend
) -> None:
    created = {
        "execution_id": 1,
        "workflow_id": 2,
        "version_id": 3,
        "computing_unit_id": 4,
        "user_id": 5,
        "status": "READY",
        "status_code": 0,
        "started_at": "2026-11-24T08:00:00Z",
        "run_token": "R",
    }
    durable = {"write_id": "w", "state": "durable"}
    sidecar.responses = [
        web.json_response(created, status=201),
        web.json_response(durable, status=202),
        web.json_response(durable | {"state": "committed"}),
        problem(404, "no-execution"),
    ]

    await backend.create_execution(NewExecution(2, 4, "test"))
    await backend.store_status(1, "RUNNING")
    await backend.wait_delivered()
    await backend.latest_execution(2, 4)

    sent = [headers["Authorization"] for _, _, headers in sidecar.requests]
    assert sent == ["Bearer T", "Bearer R", "Bearer R", "Bearer T"]


async def test_problem_that_no_retry_helps_is_raised_at_once(
    sidecar: FakeSidecar, backend: SidecarBackend
) -> None:
    sidecar.responses = [problem(409, "status-conflict")]

    with pytest.raises(CallFailed) as caught:
        await backend.store_status(1, "RUNNING")

    assert caught.value.refused.http_status == 409
    assert caught.value.refused.slug == "status-conflict"


async def test_missing_result_uri_is_none(sidecar: FakeSidecar, backend: SidecarBackend) -> None:
    sidecar.responses = [problem(404, "result-uri-not-found")]

    assert await backend.result_uri(1, "Filter-1", 0) is None


async def test_write_refused_after_its_response_is_returned_by_wait_delivered(
    sidecar: FakeSidecar, backend: SidecarBackend
) -> None:
    accepted = [{"write_id": w, "state": "durable"} for w in ("w-1", "w-2")]
    refused = {"write_id": "w-1", "state": "refused", "problem": {"type": "late", "detail": "d"}}
    sidecar.responses = [
        *(web.json_response(body, status=202) for body in accepted),
        web.json_response({"write_id": "w-2", "state": "durable"}),
        web.json_response({"write_id": "w-2", "state": "committed"}),
        web.json_response(refused),
    ]
    await backend.store_status(1, "RUNNING")
    await backend.store_status(1, "PAUSED")

    [refusal] = await backend.wait_delivered()

    assert (refusal.call, refusal.slug) == ("store_status", "late")


async def test_run_ends_when_the_sidecar_is_unreachable(clock: Clock) -> None:
    async with SidecarBackend(
        "http://127.0.0.1:1", "T", deadline_s=5, clock=clock, sleep=clock.sleep
    ) as backend:
        unit = ComputingUnit(
            plan_run(read_workflow(SAMPLE_WORKFLOW)),
            backend,
            NullReporter(),
            workflow_id=101,
            computing_unit_id=201,
            poll_s=1,
            clock=clock,
            sleep=clock.sleep,
        )
        with pytest.raises(Unreachable):
            await unit.run()

    assert clock.now_s < 6
