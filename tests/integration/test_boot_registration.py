"""A boot end to end: registered with a sidecar, stored there, sent with every binding."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dev.world import WORLD
from tests.databases import Database
from tests.integration.central.batching import Connection
from tests.integration.central.rows import execution_by_sql
from tests.stacks import Stack, running_stack

UNIT = f"/v1/computing-units/{WORLD.computing_unit_id}/boots"


@pytest.fixture
async def stack(database: Database, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(database.central_url, tmp_path) as stack:
        yield stack


async def test_bindings_carry_the_current_boot_and_close_with_the_next(
    stack: Stack, owner_connection: Connection
) -> None:
    await stack.call("POST", UNIT, {"boot_id": "one"})
    created = await stack.create()
    existing = await execution_by_sql(owner_connection, status=1)
    await stack.write("PATCH", f"/v1/executions/{existing}", {"name": "bound by this write"})
    rows = await owner_connection.fetch("select execution_id, boot_id from cu_metadata.bindings")

    second = await stack.call("POST", UNIT, {"boot_id": "two"})
    after = await stack.create()
    boot_id = await owner_connection.fetchval(
        "select boot_id from cu_metadata.bindings where execution_id = $1", after
    )

    assert {row["execution_id"]: row["boot_id"] for row in rows} == dict.fromkeys(
        [existing, created], "one"
    )
    assert second.body == {"closed": sorted([existing, created])}
    assert boot_id == "two"
