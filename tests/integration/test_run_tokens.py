"""A computing unit needs its user's token once, to create a run; the run's calls go by a run token.

Through a real sidecar, a real central and Postgres. `docs/security.md` states the bounds.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from dev.tokens import mint
from dev.vfs_uri import global_port_id, result_uri
from dev.world import WORLD
from sidecar.spool.schema import FILE_NAME
from sidecar.upstream.probe import MIN_FAILURES
from sidecar.upstream.run_tokens import UNAVAILABLE_S, new_run_token
from tests.databases import Database
from tests.integration.central.command_fixtures import central
from tests.stacks import COMMITTED, LocalReply, Stack, running_stack

OLD = "old:the-first-secret-that-signs-run-tokens"
NEW = "new:another-secret-that-signs-run-tokens"
KEYS = MappingProxyType({"CENTRAL_RUN_TOKEN_KEYS": OLD})
SHORT = MappingProxyType({"SIDECAR_ACCESS_TTL_S": "1", "CENTRAL_ACCOUNT_CHECK_S": "0.001"})
ACCESS_TTL_S = 1.0
CREATE = {
    "workflow_id": WORLD.workflow_id,
    "computing_unit_id": WORLD.computing_unit_id,
    "environment_version": "test",
    "run_token": True,
}
PORT = global_port_id("op-1", 0)


@dataclass
class Run:
    """A run of the writer's, by its run token."""

    stack: Stack
    execution_id: int
    token: str

    async def call(
        self, method: str, part: str = "", body: Any = None, *, is_committed: bool = False
    ) -> LocalReply:
        headers = {"Authorization": f"Bearer {self.token}", **(COMMITTED if is_committed else {})}
        target = f"/v1/executions/{self.execution_id}{part}"
        return await self.stack.call(method, target, body, headers=headers)

    async def read(self) -> LocalReply:
        """The row as central has it now."""
        self.stack.sidecar.services.reads.invalidate(None, [self.execution_id])
        return await self.call("GET")

    async def read_after_ttl(self) -> LocalReply:
        """Once the sidecar has to ask central whether the token may still read."""
        await asyncio.sleep(ACCESS_TTL_S)
        return await self.read()

    def on(self, stack: Stack) -> "Run":
        """The same run and token at another sidecar, or at this one after a restart."""
        return Run(stack, self.execution_id, self.token)


def running(
    database: Database, folder: Path, variables: Mapping[str, str] = MappingProxyType({})
) -> AbstractAsyncContextManager[Stack]:
    return running_stack(database.central_url, folder, {**KEYS, **SHORT, **variables})


@pytest.fixture
async def stack(database: Database, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(database, tmp_path) as stack:
        yield stack


async def created(stack: Stack, token: str | None = None, key: str = "") -> LocalReply:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    if key:
        headers["Idempotency-Key"] = key
    return await stack.call("POST", "/v1/executions", CREATE, user=WORLD.writer, headers=headers)


async def begun(stack: Stack, token: str | None = None) -> Run:
    reply = await created(stack, token)
    assert reply.status == 201, reply.body
    assert reply.headers["Cache-Control"] == "no-store"
    return Run(stack, reply.body["execution_id"], reply.body["run_token"])


async def test_a_run_is_written_and_read_to_its_end_after_its_users_token_has_expired(
    stack: Stack,
) -> None:
    dying = mint(WORLD.writer.user_id, ttl_s=-28)  # within central's leeway of 30 s
    run = await begun(stack, dying)
    uri = result_uri(WORLD.workflow_id, run.execution_id, PORT)
    await asyncio.sleep(3)

    by_user = await stack.call(
        "GET",
        f"/v1/executions/{run.execution_id}",
        headers={"Authorization": f"Bearer {dying}"},
    )
    replies = [
        await run.call("PATCH", body={"status": "RUNNING"}),
        await run.call("PUT", f"/ports/{PORT}", {"result_uri": uri}, is_committed=True),
        await run.read(),
        await run.call("GET", "/result-uri?operator_id=op-1"),
        await run.call("GET", "/uris"),
        await run.call("PATCH", body={"status": "COMPLETED"}, is_committed=True),
        await run.read(),
    ]
    write_id = replies[-2].body["write_id"]
    state = await stack.call(
        "GET", f"/v1/writes/{write_id}", headers={"Authorization": f"Bearer {run.token}"}
    )

    assert by_user.outcome == (401, "token-expired")
    assert [reply.status for reply in replies] == [202, 200, 200, 200, 200, 200, 200]
    assert replies[2].body["status"] == "RUNNING"
    assert replies[3].body["uri"] == uri
    assert replies[6].body["status"] == "COMPLETED"
    assert replies[6].headers["X-Cache"] == "miss"
    assert state.body["state"] == "committed"


async def test_a_run_token_is_good_at_its_sidecar_for_its_run_only(
    stack: Stack, database: Database, tmp_path: Path
) -> None:
    run, other = await begun(stack), await begun(stack)
    authorization = {"Authorization": f"Bearer {run.token}"}
    elsewhere = Run(stack, other.execution_id, run.token)

    at_central = await stack.central.call(
        "GET", f"/v1/executions/{run.execution_id}", token=run.token
    )
    made_up = await Run(stack, run.execution_id, new_run_token(run.execution_id)).read()
    of_write = await other.call("PATCH", body={"status": "RUNNING"}, is_committed=True)
    others_write = await stack.call(
        "GET", f"/v1/writes/{of_write.body['write_id']}", headers=authorization
    )
    async with running(database, tmp_path / "other") as another:
        at_another = [
            await run.on(another).read(),
            await run.on(another).call("PATCH", body={"status": "KILLED"}),
        ]

    assert (await run.read()).status == 200
    assert (await elsewhere.read()).outcome == (403, "run-token-scope")
    assert (await elsewhere.call("PATCH", body={"name": "x"})).outcome == (403, "run-token-scope")
    assert at_central.outcome == made_up.outcome == (401, "token-invalid")
    assert others_write.outcome == (404, "write-not-found")
    assert [reply.outcome for reply in at_another] == [(401, "token-invalid")] * 2


def content_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob(f"{FILE_NAME}*"))


async def test_a_run_token_survives_a_restart_and_only_its_digest_is_stored(
    database: Database, tmp_path: Path
) -> None:
    async with running(database, tmp_path) as before:
        run = await begun(before)
    stored = content_of(tmp_path)

    async with running(database, tmp_path) as after:
        assert (await run.on(after).read()).status == 200
        written = await run.on(after).call("PATCH", body={"name": "after"}, is_committed=True)

    assert written.status == 200
    assert run.token.encode() not in stored
    assert run.token.rpartition("_")[2].encode() not in stored


async def test_a_removed_signing_key_refuses_no_read(database: Database, tmp_path: Path) -> None:
    async with running(database, tmp_path) as stack:
        run = await begun(stack)
        tokens = stack.sidecar.central.run_tokens
        by_old_key = tokens._exchanged[run.execution_id]
    async with running(database, tmp_path, {"CENTRAL_RUN_TOKEN_KEYS": NEW}) as after:
        after.sidecar.central.run_tokens._exchanged[run.execution_id] = by_old_key

        assert (await run.on(after).read()).status == 200


async def test_a_repeated_create_has_a_new_run_token_in_place_of_the_first(stack: Stack) -> None:
    first, second = await created(stack, key="k"), await created(stack, key="k")
    execution_id = first.body["execution_id"]
    old, new = (Run(stack, execution_id, reply.body["run_token"]) for reply in (first, second))

    assert second.body["execution_id"] == execution_id
    assert (await old.read()).outcome == (401, "token-invalid")
    assert (await new.read()).status == 200

    await new.call("PATCH", body={"status": "COMPLETED"}, is_committed=True)
    after_the_end = await created(stack, key="k")
    assert (after_the_end.status, "run_token" in after_the_end.body) == (201, False)
    assert (await new.read()).status == 200


async def test_without_keys_at_central_a_create_has_no_run_token(
    database: Database, tmp_path: Path
) -> None:
    async with running_stack(database.central_url, tmp_path) as stack:
        reply = await created(stack)

    assert (reply.status, "run_token" in reply.body) == (201, False)
    assert "Cache-Control" not in reply.headers


async def test_the_older_calls_create_with_a_run_token_too(stack: Stack) -> None:
    body = {
        "workflowId": WORLD.workflow_id,
        "computingUnitId": WORLD.computing_unit_id,
        "environmentVersion": "test",
        "runToken": True,
    }
    base = "/api/internal/execution-metadata"
    reply = await stack.call("POST", f"{base}/create", body, user=WORLD.writer)
    headers = {"Authorization": f"Bearer {reply.body['runToken']}"}

    uris = await stack.call("GET", f"{base}/{reply.body['eid']}/port-results", headers=headers)

    assert reply.headers["Cache-Control"] == "no-store"
    assert (uris.status, uris.body) == (200, {"uris": []})


# What ends it, and within which bound


async def test_a_withdrawn_grant_ends_the_reads_within_the_access_ttl(
    stack: Stack, owner_connection: Any
) -> None:
    run = await begun(stack)
    await owner_connection.execute(
        "DELETE FROM texera_db.workflow_user_access WHERE uid = $1 AND wid = $2",
        WORLD.writer.user_id,
        WORLD.workflow_id,
    )

    assert (await run.read_after_ttl()).outcome == (404, "execution-not-found")


async def test_a_demotion_ends_the_reads_and_the_writes(
    stack: Stack, owner_connection: Any
) -> None:
    run = await begun(stack)
    await owner_connection.execute(
        "UPDATE texera_db.\"user\" SET role = 'RESTRICTED' WHERE uid = $1", WORLD.writer.user_id
    )

    assert (await run.read_after_ttl()).outcome == (403, "user-demoted")
    refused = await run.call("PATCH", body={"name": "x"}, is_committed=True)
    assert refused.outcome == (403, "user-demoted")
    assert (await run.call("PATCH", body={"name": "x"})).outcome == (401, "token-invalid")
    assert (await run.read()).outcome == (401, "token-invalid")


async def test_a_revoked_binding_ends_the_reads_with_the_next_renewal_of_the_lease(
    stack: Stack, database: Database
) -> None:
    run = await begun(stack)
    of_run = ("--execution", str(run.execution_id), "--reason", "stolen laptop")
    done = central(database.central_url, "bindings", "revoke", *of_run)
    assert done.exit_code == 0, done.errors
    before_the_renewal = await run.read_after_ttl()

    await stack.sidecar.lease_renewer.renew()

    assert before_the_renewal.status == 200
    assert (await run.read_after_ttl()).outcome == (403, "not-bound")


async def test_a_revoked_binding_ends_the_writes_with_their_delivery(
    stack: Stack, database: Database
) -> None:
    run = await begun(stack)
    of_run = ("--execution", str(run.execution_id), "--reason", "stolen laptop")
    central(database.central_url, "bindings", "revoke", *of_run)

    refused = await run.call("PATCH", body={"name": "x"}, is_committed=True)

    assert refused.outcome == (403, "binding-revoked")
    assert (await run.call("PATCH", body={"name": "x"})).outcome == (401, "token-invalid")


async def test_after_the_end_a_run_is_read_by_what_was_exchanged_before_and_no_longer(
    stack: Stack,
) -> None:
    run = await begun(stack)
    await run.call("PATCH", body={"status": "COMPLETED"}, is_committed=True)
    tokens = stack.sidecar.central.run_tokens

    within = await run.read_after_ttl()
    tokens._exchanged.clear()  # as after its life of CENTRAL_RUN_TOKEN_LIFETIME_S

    assert within.status == 200
    assert (await run.read_after_ttl()).outcome == (403, "not-bound")


async def test_a_lease_that_lapsed_in_an_outage_is_renewed_before_its_run_is_refused(
    stack: Stack, owner_connection: Any
) -> None:
    run = await begun(stack)
    stack.sidecar.central.run_tokens._exchanged.clear()
    await owner_connection.execute(
        "UPDATE cu_metadata.leases SET expires_at = now() - interval '1 s' WHERE execution_id = $1",
        run.execution_id,
    )

    lapsed = await run.read_after_ttl()
    await stack.sidecar.lease_renewer.renew()

    assert lapsed.outcome == (503, "central-unavailable")
    await asyncio.sleep(UNAVAILABLE_S)
    assert (await run.read()).status == 200


async def test_while_central_is_away_a_run_is_read_as_with_its_users_token(stack: Stack) -> None:
    run = await begun(stack)
    uri = result_uri(WORLD.workflow_id, run.execution_id, PORT)
    await run.call("PUT", f"/ports/{PORT}", {"result_uri": uri}, is_committed=True)
    assert (await run.call("GET", "/result-uri?operator_id=op-1")).status == 200
    await stack.central.client.close()
    stack.sidecar.central.run_tokens._exchanged.clear()
    for _ in range(MIN_FAILURES):
        await stack.sidecar.central._probe.check()
    await asyncio.sleep(ACCESS_TTL_S)

    stale = await run.call("GET", "/result-uri?operator_id=op-1")

    assert (stale.status, stale.headers["X-Cache"]) == (200, "stale")


async def test_a_run_is_read_on_after_its_sidecars_key_was_replaced(stack: Stack) -> None:
    """Central's token of the run was issued to the old key."""
    run = await begun(stack)
    assert (await run.read_after_ttl()).status == 200

    await stack.sidecar.key_rotation.rotate()

    assert (await run.read_after_ttl()).status == 200
