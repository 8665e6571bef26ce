"""A create that is repeated under its idempotency key, after the spool was lost."""

from pathlib import Path

from dev.vfs_uri import global_port_id, result_uri
from dev.world import WORLD
from sidecar.spool.schema import FILE_NAME
from tests.databases import Database
from tests.stacks import Stack, running_stack

KEY = {"Idempotency-Key": "the-run"}
PORT = global_port_id("op-1", 0)
NEW_RUN = {
    "workflow_id": WORLD.workflow_id,
    "computing_unit_id": WORLD.computing_unit_id,
    "environment_version": "test",
}


async def create(stack: Stack) -> int:
    reply = await stack.call("POST", "/v1/executions", NEW_RUN, headers=KEY)
    assert reply.status == 201
    return int(reply.body["execution_id"])


async def test_uris_stored_before_the_spool_was_lost_are_found_after_a_repeated_create(
    database: Database, tmp_path: Path
) -> None:
    async with running_stack(database.central_url, tmp_path) as stack:
        eid = await create(stack)
        uri = result_uri(WORLD.workflow_id, eid, PORT)
        await stack.write("PUT", f"/v1/executions/{eid}/ports/{PORT}", {"result_uri": uri})
    (tmp_path / FILE_NAME).unlink()

    async with running_stack(database.central_url, tmp_path) as stack:
        repeated = await create(stack)
        found = await stack.get(f"/v1/executions/{eid}/result-uri?operator_id=op-1")
        written = await stack.call("PATCH", f"/v1/executions/{eid}", {"name": "again"})

    assert repeated == eid
    assert (found.status, found.body.get("uri")) == (200, uri)
    assert written.status == 202


async def test_a_create_repeated_without_loss_keeps_its_binding(
    database: Database, tmp_path: Path
) -> None:
    async with running_stack(database.central_url, tmp_path) as stack:
        eid = await create(stack)
        before = stack.sidecar.spool.bindings.binding(eid)

        assert await create(stack) == eid

        assert before is not None
        assert before.created_here
        assert stack.sidecar.spool.bindings.binding(eid) == before
