"""A token that central has never vouched for learns nothing of what waits or is cached here.

Every local route, while central is away: the response is the same, and as quick, for an execution
with pending writes and without, cached and not, bound here and not, and one that does not exist.
"""

import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dev.tokens import mint
from dev.world import WORLD
from tests.databases import Database
from tests.integration.relation_fixtures import PRIVATE, PUBLIC, Scene, filled, target
from tests.integration.test_local_authorization import CALLS
from tests.stacks import Stack, running_stack

AT_ONCE_S = 3.0
"""Less than any wait for a delivery; a refused connection and its retry take 0.1 s."""
ABSENT = 999_999
_numbers = itertools.count(1_000)


@pytest.fixture
async def stack(database: Database, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(database.central_url, tmp_path, is_delivering=False) as stack:
        yield stack


async def prepare(stack: Stack) -> dict[str, tuple[Scene, int, str]]:
    """An execution of each kind, with its scene and the id of a write."""
    pending, cached, uncached = [await stack.create() for _ in range(3)]
    writes = await stack.call("PATCH", f"/v1/executions/{pending}", {"status": "RUNNING"})
    other = PRIVATE.ended_execution_id
    for execution_id in (pending, cached, other):
        for part in ("", "/uris"):
            assert (await stack.get(f"/v1/executions/{execution_id}{part}")).status == 200
    stack.sidecar.services.reads.invalidate(None, [uncached])
    write_id = writes.body["write_id"]
    unknown_id = write_id.rpartition("-")[0] + "-99999"
    elsewhere = replace(PUBLIC, computing_unit_id=WORLD.other_computing_unit_id)
    return {
        "pending": (replace(PRIVATE, ended_execution_id=pending), pending, write_id),
        "cached": (replace(PRIVATE, ended_execution_id=cached), cached, unknown_id),
        "uncached": (replace(PRIVATE, ended_execution_id=uncached), uncached, unknown_id),
        "cached, not bound": (PRIVATE, other, unknown_id),
        "neither": (elsewhere, PUBLIC.ended_execution_id, unknown_id),
        "absent": (replace(elsewhere, workflow_id=ABSENT), ABSENT, unknown_id),
    }


async def response(
    stack: Stack, call: tuple[str, str, Any], kind: tuple[Scene, int, str], token: str
) -> tuple[Any, ...]:
    method, path, body = call
    scene, execution_id, write_id = kind
    where = target(path.replace("{write_id}", write_id), scene, execution_id)
    what = filled(body, scene, execution_id)
    started_at = time.monotonic()
    reply = await stack.call(method, where, what, headers={"Authorization": f"Bearer {token}"})
    is_quick = time.monotonic() - started_at < AT_ONCE_S
    names = frozenset(name.lower() for name in reply.headers) - {"content-length"}
    return reply.outcome, reply.body.get("title"), frozenset(reply.body), names, is_quick


def made_up() -> str:
    return f"made.up.{next(_numbers)}"


def valid() -> str:
    """A good token that this sidecar has never seen, of a user who may read what is pending."""
    return mint(WORLD.reader.user_id, ttl_s=next(_numbers))


@pytest.mark.parametrize("new_token", [made_up, valid])
async def test_every_route_responds_alike_whatever_is_pending_cached_or_bound(
    stack: Stack, new_token: Any
) -> None:
    kinds = await prepare(stack)
    await stack.central.client.close()
    differing = {}
    for (method, route), (path, body, _, _) in CALLS.items():
        responses = {
            name: await response(stack, (method, path, body), kind, new_token())
            for name, kind in kinds.items()
        }
        if len(set(responses.values())) > 1:
            differing[method, route] = responses
        assert responses["absent"][0] == (503, "central-unavailable"), (method, route)

    assert differing == {}


async def test_a_made_up_token_is_refused_at_once_whatever_is_pending(stack: Stack) -> None:
    """While central is up: every route, and no wait behind the writes that are pending."""
    kinds = await prepare(stack)
    for (method, route), (path, body, _, _) in CALLS.items():
        responses = [
            await response(stack, (method, path, body), kind, made_up()) for kind in kinds.values()
        ]
        assert len(set(responses)) == 1, (method, route, responses)
        assert responses[0][0] == (401, "token-invalid"), (method, route)
