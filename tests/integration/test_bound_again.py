"""A run whose binding was lost, and that central binds again."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dev.tokens import mint
from dev.world import WORLD
from tests.databases import Database
from tests.stacks import COMMITTED, Stack, running_stack


@pytest.fixture
async def stack(database: Database, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(database.central_url, tmp_path) as stack:
        yield stack


async def write_with_a_new_token(stack: Stack, execution_id: int) -> None:
    owner = WORLD.owner
    token = mint(owner.user_id, owner.role, ttl_s=4000)
    headers = {"Authorization": f"Bearer {token}", **COMMITTED}
    response = await stack.call(
        "PATCH", f"/v1/executions/{execution_id}", {"name": "a"}, headers=headers
    )
    assert response.status == 200, response.body


async def test_an_open_run_is_held_again_but_no_longer_as_its_only_writer(stack: Stack) -> None:
    execution_id = await stack.create()
    bindings = stack.sidecar.spool.bindings
    await bindings.end([execution_id])  # as a renewal says: bound elsewhere

    await write_with_a_new_token(stack, execution_id)

    binding = bindings.binding(execution_id)
    assert binding is not None
    assert (binding.ended_at_ms, binding.created_here) == (None, False)
    assert stack.sidecar.lease_renewer.held() == [execution_id]


async def test_a_run_that_has_ended_stays_ended(stack: Stack) -> None:
    execution_id = await stack.create()
    await stack.write("PATCH", f"/v1/executions/{execution_id}", {"status": "COMPLETED"})

    await write_with_a_new_token(stack, execution_id)

    assert stack.sidecar.lease_renewer.held() == []
