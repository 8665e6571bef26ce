"""The computing unit's client asks again while there is hope, and says so when there is none."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from dev.computing_unit import ComputingUnit
from dev.metadata_api import SidecarBackend
from dev.metadata_backend import CallFailed, NewExecution, Unreachable
from dev.progress import NullReporter
from dev.run_plan import plan_run
from dev.texera import SAMPLE_WORKFLOW
from dev.workflow_file import read_workflow

NEW = NewExecution(101, 201, "test")


@dataclass
class FakeSidecar:
    """Gives the answers it was told to, in order, and keeps the requests."""

    answers: list[web.Response] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.raw_path, dict(request.headers)))
        return self.answers.pop(0)


class Clock:
    """Time passes only while somebody sleeps."""

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
        async with SidecarBackend(url, "T", patience_s=30, clock=clock, sleep=clock.sleep) as it:
            yield it


def problem(status: int, slug: str, **headers: str) -> web.Response:
    body = {"type": slug, "title": slug, "status": status, "detail": "in words"}
    return web.json_response(body, status=status, headers=headers)


async def test_later_means_later(
    sidecar: FakeSidecar, backend: SidecarBackend, clock: Clock
) -> None:
    later = problem(503, "spool-full", **{"Retry-After": "3"})
    sidecar.answers = [later, web.json_response({"write_id": "w", "state": "durable"}, status=202)]

    await backend.store_status(1, "RUNNING")

    assert clock.now_s == 3
    assert backend.retries == {("store_status", "spool-full"): 1}


async def test_a_create_keeps_its_key_through_all_attempts(
    sidecar: FakeSidecar, backend: SidecarBackend
) -> None:
    created = web.json_response({"execution_id": 7}, status=201)
    sidecar.answers = [problem(503, "central-unavailable"), created]

    assert await backend.create_execution(NEW) == 7

    first, second = (headers["Idempotency-Key"] for _, _, headers in sidecar.requests)
    assert first == second


async def test_patience_ends(sidecar: FakeSidecar, backend: SidecarBackend, clock: Clock) -> None:
    sidecar.answers = [problem(503, "spool-full", **{"Retry-After": "5"}) for _ in range(20)]

    with pytest.raises(CallFailed, match="spool-full"):
        await backend.store_status(1, "RUNNING")

    assert clock.now_s == pytest.approx(30, abs=5)


async def test_a_refusal_is_not_repeated(sidecar: FakeSidecar, backend: SidecarBackend) -> None:
    sidecar.answers = [problem(409, "status-conflict")]

    with pytest.raises(CallFailed) as caught:
        await backend.store_status(1, "RUNNING")

    assert caught.value.refused.http_status == 409
    assert caught.value.refused.slug == "status-conflict"


async def test_what_is_not_there_is_none(sidecar: FakeSidecar, backend: SidecarBackend) -> None:
    sidecar.answers = [problem(404, "result-uri-not-found")]

    assert await backend.result_uri(1, "Filter-1", 0) is None


async def test_a_port_stands_in_the_path_as_it_is_written(
    sidecar: FakeSidecar, backend: SidecarBackend
) -> None:
    sidecar.answers = [web.json_response({"write_id": "w", "state": "committed"})]
    port = "(logicalOpId=a,layerName=main,portId=0,isInternal=false,isInput=false)"

    await backend.store_port_result(1, port, "vfs:///x")

    assert sidecar.requests[0][:2] == ("PUT", f"/v1/executions/1/ports/{port}")


async def test_a_write_that_is_refused_later_is_told_when_all_is_settled(
    sidecar: FakeSidecar, backend: SidecarBackend
) -> None:
    accepted = [{"write_id": w, "state": "durable"} for w in ("w-1", "w-2")]
    refused = {"write_id": "w-1", "state": "refused", "problem": {"type": "late", "detail": "d"}}
    sidecar.answers = [
        *(web.json_response(body, status=202) for body in accepted),
        web.json_response({"write_id": "w-2", "state": "durable"}),
        web.json_response({"write_id": "w-2", "state": "committed"}),
        web.json_response(refused),
    ]
    await backend.store_status(1, "RUNNING")
    await backend.store_status(1, "PAUSED")

    [told] = await backend.settle()

    assert (told.call, told.slug) == ("store_status", "late")


async def test_a_run_ends_when_nobody_answers(clock: Clock) -> None:
    async with SidecarBackend(
        "http://127.0.0.1:1", "T", patience_s=5, clock=clock, sleep=clock.sleep
    ) as nobody:
        unit = ComputingUnit(
            plan_run(read_workflow(SAMPLE_WORKFLOW)),
            nobody,
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
