"""Forwarded reads while writes settle: what was pending when the read began is in its response.

Central computes its response, the pending writes settle, and only then the response arrives.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from sidecar.delivery.loop import Delivery
from sidecar.forwarded import ForwardedCalls
from sidecar.upstream.client import CallContext, CentralResponse
from sidecar.wire import forwarded, v1
from tests.unit.sidecar.read_fixtures import (
    UNIT,
    WORKFLOW,
    FakeCentral,
    World,
    caller,
    open_world,
    refusal,
)

EID = 7
TERM = 1 << 40
EXPORT = forwarded.ExportRequest(UNIT, [forwarded.ExportedOperator("op", "csv")])


@dataclass
class Slow(FakeCentral):
    """Runs `meanwhile` once, between computing a response and returning it."""

    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def read(
        self, name: str, target: str, context: CallContext, etag: str | None = None
    ) -> CentralResponse:
        rows = [row for row in self.rows.values() if name != "list" or row.status == "COMPLETED"]
        document: object = {"executions": rows, "next_before": None}
        if name == "operator-costs":
            ended = [row.execution_id for row in rows if row.status == "COMPLETED"]
            document = v1.LatestCosts(ended[0], None, None) if ended else None
        response = await self._late(CentralResponse(200, msgspec.json.encode(document), 1, TERM))
        if document is None:
            raise refusal("no-completed-run", 404)
        return response

    async def post_query(
        self, name: str, target: str, body: bytes, context: CallContext
    ) -> CentralResponse:
        uris = [uri for uri, _ in self.registries[EID].results.values()]
        plan = {"execution_id": EID, "version_id": 1, "operators": [
            {"id": "op", "uri": uri, "file_name": "f", "blocked": False, "blocked_by": []}
            for uri in uris
        ]}  # fmt: skip
        return await self._late(CentralResponse(200, msgspec.json.encode(plan)))

    async def _late(self, response: CentralResponse) -> CentralResponse:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return response


@dataclass
class Bench:
    here: World
    central: Slow
    forwarded: ForwardedCalls


async def identify(context: CallContext) -> int:
    return 1


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A completed run at central, and the calls of a sidecar that wrote to it."""
    async with open_world(tmp_path) as here:
        here.central.add(EID)
        await here.bind(EID)
        central = Slow(here.clock, here.central.rows, here.central.registries)
        for part in (here.reads, here.reads._costs):
            part._central = central
        delivery = Delivery(here.spool, central, here.metrics, here.reads)
        calls = ForwardedCalls(here.spool, delivery, central, here.reads, identify)
        yield Bench(here, central, calls)


async def test_a_list_by_status_shows_an_end_that_settles_behind_the_read(bench: Bench) -> None:
    await bench.here.write(EID, "update_execution", status="COMPLETED")
    bench.central.meanwhile = bench.here.deliver

    page = await bench.forwarded.list_page(WORKFLOW, v1.ListQuery(status="COMPLETED"), caller())

    assert [row.execution_id for row in page.executions] == [EID]


async def test_expired_runs_show_a_write_that_settles_behind_the_read(bench: Bench) -> None:
    await bench.here.write(EID, "update_execution", name="new")
    bench.central.meanwhile = bench.here.deliver

    expired = await bench.forwarded.expired("/v1/expired", caller())

    assert [row.name for row in expired.executions] == ["new"]


async def test_costs_are_of_a_run_whose_end_settles_behind_the_read(bench: Bench) -> None:
    await bench.here.write(EID, "update_execution", status="COMPLETED")
    bench.central.meanwhile = bench.here.deliver

    costs = await bench.forwarded.costs(WORKFLOW, caller())

    assert costs.value.costs.execution_id == EID


async def test_expired_runs_show_a_pending_write(bench: Bench) -> None:
    await bench.here.write(EID, "update_execution", name="new")

    expired = await bench.forwarded.expired("/v1/expired", caller())

    assert [row.name for row in expired.executions] == ["new"]


async def test_an_export_plan_has_a_result_that_settles_behind_the_read(bench: Bench) -> None:
    await bench.here.put_result(EID, "port", "uri")
    bench.central.meanwhile = bench.here.deliver

    plan = await bench.forwarded.plan_export(WORKFLOW, EXPORT, caller())

    assert [operator.uri for operator in plan.operators] == ["uri"]
