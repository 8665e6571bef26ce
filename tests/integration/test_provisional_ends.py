"""A run that central closed as FAILED, and whose own end its sidecar has acknowledged."""

from pathlib import Path

from dev.world import WORLD
from tests.databases import Database
from tests.stacks import running_stack

UNIT = f"/v1/computing-units/{WORLD.computing_unit_id}/boots"
RUNS = f"/v1/workflows/{WORLD.workflow_id}/executions"


async def test_an_acknowledged_end_replaces_a_provisional_failed_in_every_read(
    database: Database, tmp_path: Path
) -> None:
    async with running_stack(database.central_url, tmp_path, is_delivering=False) as stack:
        await stack.call("POST", UNIT, {"boot_id": "one"})
        eid = await stack.create()
        targets = [f"/v1/executions/{eid}", f"{RUNS}/latest", f"{RUNS}/{eid}", RUNS]

        async def statuses() -> set[tuple[str, int, bool]]:
            rows = [(await stack.get(target)).body for target in targets]
            rows[-1] = rows[-1]["executions"][0]
            return {(r["status"], r["status_code"], r.get("provisional", False)) for r in rows}

        await stack.call("POST", UNIT, {"boot_id": "two"})
        closed = await statuses()
        acknowledged = await stack.call("PATCH", targets[0], {"status": "COMPLETED"})
        pending = await stack.get(targets[0])
        pending_everywhere = await statuses()
        sidecar = stack.sidecar
        async with sidecar.tasks.supervise("delivery", sidecar.delivery.run):
            flushed = await stack.call("POST", "/v1/flush")
        delivered = await statuses()

    assert closed == {("FAILED", 4, True)}
    assert acknowledged.status == 202
    assert pending.headers["X-Cache"] == "pending"
    assert pending_everywhere == {("COMPLETED", 3, False)}
    assert flushed.status == 200
    assert delivered == {("COMPLETED", 3, False)}
