"""Conditional reads: 304 for a matching ETag, if the caller is still authorized."""

from collections.abc import Mapping
from typing import Any

import pytest

from dev.tokens import mint
from dev.world import WORLD, User
from tests.integration.central.central_fixtures import Sidecar

ROW = f"/v1/executions/{WORLD.completed_execution_id}"
TARGETS = (ROW, f"{ROW}/uris", f"/v1/workflows/{WORLD.workflow_id}/executions/latest")


async def conditional_get(
    sidecar: Sidecar, target: str, etag: str, user: User = WORLD.owner
) -> tuple[int, bytes, Mapping[str, str]]:
    headers = {"Authorization": f"Bearer {mint(user.user_id, user.role)}", "If-None-Match": etag}
    async with sidecar.client.get(target, headers=headers) as response:
        return response.status, await response.read(), response.headers


@pytest.mark.parametrize("target", TARGETS)
async def test_unchanged_response_is_304(sidecar: Sidecar, target: str) -> None:
    etag = (await sidecar.get(target)).headers["ETag"]

    status, body, headers = await conditional_get(sidecar, target, etag)

    assert (status, body, headers["ETag"]) == (304, b"", etag)
    assert headers["X-User-Id"] == str(WORLD.owner.user_id), "the token was authorized"
    assert "X-Token-Expires-At" in headers
    assert (await conditional_get(sidecar, target, '"other"'))[0] == 200


async def test_changed_row_has_another_etag(sidecar: Sidecar, owner_connection: Any) -> None:
    etag = (await sidecar.get(ROW)).headers["ETag"]
    await owner_connection.execute(
        "UPDATE texera_db.workflow_executions SET name = 'renamed' WHERE eid = $1",
        WORLD.completed_execution_id,
    )

    status, body, headers = await conditional_get(sidecar, ROW, etag)

    assert (status, b"renamed" in body) == (200, True)
    assert headers["ETag"] != etag


async def test_matching_etag_grants_no_access(sidecar: Sidecar) -> None:
    etag = (await sidecar.get(ROW)).headers["ETag"]

    status, _, headers = await conditional_get(sidecar, ROW, etag, WORLD.stranger)

    assert status == 404
    assert "ETag" not in headers
