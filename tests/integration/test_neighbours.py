"""Two users on one computing unit, before one sidecar: B never receives what only A may see.

Every value of A's run contains a word that no response to B may contain: from the cache, with
pending writes applied, from a call shared with A's, from a long poll, in the state of a write, or
in a problem.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dev.vfs_uri import console_uri, global_port_id, result_uri
from dev.world import WORLD, User
from tests.databases import Database
from tests.stacks import LocalReply, Stack, running_stack

WORD = "canary"
SIZE = 471_147_114_711
"""In bytes, and in seconds. Longer than what a random request id contains by chance."""
OPERATOR = f"op-{WORD}"
PORT = global_port_id(OPERATOR, 0)
B = WORLD.stranger
"""May use neither workflow nor unit of A's, and has runs of their own on this sidecar."""


@pytest.fixture(params=[True, False], ids=["delivered", "waiting"])
async def stack(
    database: Database, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Stack]:
    """With A's writes in the database, and with them in the spool only."""
    async with running_stack(database.central_url, tmp_path, is_delivering=request.param) as stack:
        yield stack


class Run:
    """A's run, and every request that could reveal something of it."""

    def __init__(self, stack: Stack, execution_id: int) -> None:
        self.stack = stack
        self.execution_id = execution_id
        self.path = f"/v1/executions/{execution_id}"
        self.write_ids: list[str] = []

    async def write(self, method: str, path: str, body: Any) -> None:
        reply = await self.stack.call(method, self.path + path, body)
        assert reply.status == 202, reply.body
        self.write_ids.append(reply.body["write_id"])

    async def write_all(self) -> None:
        await self.write("PATCH", "", {"name": WORD, "result": WORD, "status": "RUNNING"})
        uri = result_uri(WORLD.workflow_id, self.execution_id, PORT)
        await self.write("PUT", f"/ports/{PORT}", {"result_uri": uri, "result_bytes": SIZE})
        console = console_uri(WORLD.workflow_id, self.execution_id, OPERATOR)
        await self.write("PUT", f"/operators/{OPERATOR}/console", {"uri": console})
        await self.write("PUT", "/operator-costs", {"operators": {OPERATOR: SIZE + 0.5}})

    def requests(self) -> list[tuple[str, str, Any]]:
        workflow = f"/v1/workflows/{WORLD.workflow_id}"
        old = f"/api/internal/execution-metadata/{self.execution_id}"
        operators = [{"id": OPERATOR, "output_type": "csv"}]
        plan = {"computing_unit_id": WORLD.computing_unit_id, "operators": operators}
        return [
            ("GET", self.path, None),
            ("GET", f"{self.path}/uris", None),
            ("GET", f"{self.path}/result-uri?operator_id={OPERATOR}", None),
            ("GET", f"{self.path}/result-uri?operator_id={OPERATOR}&wait=0.3", None),
            ("GET", f"{self.path}/operators/{OPERATOR}/console", None),
            ("GET", f"{workflow}/executions/latest", None),
            ("GET", f"{workflow}/executions", None),
            ("GET", f"{workflow}/operator-costs", None),
            ("GET", f"{workflow}/executions/{self.execution_id}", None),
            ("POST", f"{workflow}/export-plan", plan),
            ("GET", f"{old}/port-result?opId={OPERATOR}", None),
            ("GET", f"{old}/port-results", None),
            *(("GET", f"/v1/writes/{write_id}", None) for write_id in self.write_ids),
            ("GET", "/v1/writes", None),
            ("GET", "/v1/writes?state=durable", None),
            ("PATCH", self.path, {"status": "COMPLETED"}),
            ("PUT", f"{self.path}/ports/{PORT}", {"result_uri": "vfs:///x"}),
            ("DELETE", f"{self.path}/uris", None),
        ]

    async def requested_by(self, user: User) -> list[LocalReply]:
        return await asyncio.gather(
            *(
                self.stack.call(method, path, body, user=user)
                for method, path, body in self.requests()
                if user == B or method != "DELETE"  # A's own would be waited for
            )
        )


@pytest.fixture
async def run(stack: Stack) -> Run:
    return Run(stack, await stack.create())


def received(replies: list[LocalReply], run: Run) -> str:
    """All that B received, without the ids that B named."""
    text = "\n".join(f"{json.dumps(r.body)} {dict(r.headers)}" for r in replies)
    return text.replace(OPERATOR, "")


async def test_another_user_sees_nothing_before_during_and_after(stack: Stack, run: Run) -> None:
    await run.write_all()
    before = await run.requested_by(B)
    # At the same time as A, so that B could join A's flights.
    a_replies, during = await asyncio.gather(run.requested_by(WORLD.owner), run.requested_by(B))
    after = await run.requested_by(B)

    for replies in (before, during, after):
        assert WORD not in received(replies, run)
        assert str(SIZE) not in received(replies, run)
        assert {reply.status for reply in replies} <= {200, 404, 400, 403}
        assert [r.body for r in replies if r.status == 200] == [{"writes": []}] * 2
    assert WORD in json.dumps([reply.body for reply in a_replies])


async def test_another_users_long_poll_does_not_return_the_result(stack: Stack, run: Run) -> None:
    question = f"{run.path}/result-uri?operator_id={OPERATOR}&wait=5"
    waiting = [asyncio.ensure_future(stack.get(question, user)) for user in (WORLD.owner, B, B, B)]
    await asyncio.sleep(0)

    await run.write_all()
    mine, *others = await asyncio.gather(*waiting)

    assert mine.body["result_bytes"] == SIZE
    assert {reply.outcome for reply in others} == {(404, "execution-not-found")}
    assert str(SIZE) not in received(others, run)


async def test_another_user_with_a_run_sees_only_their_own_writes(stack: Stack, run: Run) -> None:
    await run.write_all()
    own_id = await stack.create(
        B,
        workflow_id=WORLD.public_workflow_id,
        computing_unit_id=WORLD.other_computing_unit_id,
    )
    own = await stack.call("PATCH", f"/v1/executions/{own_id}", {"name": "mine"}, user=B)

    listed = await stack.get("/v1/writes", B)
    flushed = await stack.call("POST", "/v1/flush?timeout=0.1", user=B)

    assert {write["write_id"] for write in listed.body["writes"]} == {own.body["write_id"]}
    assert {write["execution_id"] for write in listed.body["writes"]} == {own_id}
    assert WORD not in received([listed, flushed], run)


async def test_a_revoked_grant_ends_reads_after_the_access_ttl(
    database: Database, tmp_path: Path, owner_connection: Any
) -> None:
    variables = {"SIDECAR_ACCESS_TTL_S": "1"}
    async with running_stack(database.central_url, tmp_path, variables) as stack:
        run = Run(stack, await stack.create())
        await run.write_all()
        seen = await stack.get(f"{run.path}/uris", WORLD.reader)
        await owner_connection.execute(
            "DELETE FROM texera_db.workflow_user_access WHERE uid = $1", WORLD.reader.user_id
        )

        async with asyncio.timeout(30):
            while (response := await stack.get(f"{run.path}/uris", WORLD.reader)).status == 200:
                pass

    assert seen.status == 200
    assert response.outcome == (404, "execution-not-found")


async def test_a_readers_latest_run_is_not_shown_to_the_workflows_owner(stack: Stack) -> None:
    """The public workflow is the stranger's; the owner of the unit may read and run it."""
    workflow = f"/v1/workflows/{WORLD.public_workflow_id}"
    execution_id = await stack.create(workflow_id=WORLD.public_workflow_id)

    for path in ("/executions/latest", "/operator-costs"):
        own = [await stack.call("GET", workflow + path) for _ in range(2)]
        others = [await stack.call("GET", workflow + path, user=WORLD.stranger) for _ in range(2)]

        is_latest = path == "/executions/latest"
        assert [r.body["execution_id"] == execution_id for r in own] == [is_latest] * 2
        assert [r.headers["X-Cache"] for r in own + others] == ["miss", "hit"] * 2
        assert {r.body["execution_id"] for r in others} == {WORLD.other_unit_execution_id}
