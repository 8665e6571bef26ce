"""What is stolen from a computing unit is useless to another source.

The thief has the unit's environment and memory: the user's token, every call that was made
with it, a copy of the spool. Not the sidecar's key, which is in another container.
"""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dev.tokens import mint
from dev.vfs_uri import console_uri
from dev.world import WORLD
from sidecar.spool.entry import WriteState
from sidecar.spool.schema import FILE_NAME
from sidecar.upstream.source_identity import KEY_FILE_NAME
from tests.databases import Database
from tests.integration.central.central_fixtures import Sidecar, running_central
from tests.stacks import running_stack


async def status_of(connection: Any, execution_id: int) -> int:
    status: int = await connection.fetchval(
        "SELECT status FROM texera_db.workflow_executions WHERE eid = $1", execution_id
    )
    return status


async def lapse(connection: Any, execution_id: int) -> None:
    await connection.execute(
        "UPDATE cu_metadata.leases SET expires_at = now() - interval '1 s' WHERE execution_id = $1",
        execution_id,
    )


async def test_a_stolen_token_writes_nothing_from_another_source_while_the_lease_lives(
    database: Database, owner_connection: Any
) -> None:
    async with running_central(database.central_url) as sidecar:
        execution_id = (await sidecar.create()).body["execution_id"]
        run, token = f"/v1/executions/{execution_id}", mint(WORLD.owner.user_id)
        thief = sidecar.another()
        kill = {"execution_id": execution_id, "op": "update_execution", "status": "KILLED"}
        uri = {"uri": console_uri(WORLD.workflow_id, execution_id, "op-1")}

        replies = [
            await thief.call("POST", f"{run}/binding", {}, token=token),
            await thief.call("PATCH", run, {"status": "KILLED"}, token=token),
            await thief.call("PUT", f"{run}/operators/op-1/console", uri, token=token),
            await thief.call("DELETE", f"{run}/uris", token=token),
            await thief.call("PATCH", run, {"status": "KILLED"}, token=token, is_signed=False),
        ]
        delivered = await thief.deliver(kill)
        renewed = await thief.call("POST", "/v1/lease-renewals", {"execution_ids": [execution_id]})
        abandoned = await thief.call(
            "POST", "/v1/bindings/abandoned", {"execution_ids": [execution_id]}
        )

    assert [reply.outcome for reply in replies] == [
        (409, "bound-elsewhere"),
        *[(403, "not-bound")] * 3,
        (401, "assertion-missing"),
    ]
    assert delivered.outcomes == ["not-bound"]
    assert [lost["execution_id"] for lost in renewed.body["lost"]] == [execution_id]
    assert abandoned.body == {"closed": []}
    assert await status_of(owner_connection, execution_id) == 0


async def test_after_a_lapse_another_source_takes_over_and_late_entries_of_the_old_one_are_refused(
    database: Database, owner_connection: Any
) -> None:
    async with running_central(database.central_url) as old:
        execution_id = (await old.create()).body["execution_id"]
        running = {"execution_id": execution_id, "op": "update_execution", "status": "RUNNING"}
        ended = running | {"status": "COMPLETED"}
        assert (await old.deliver(running, epoch="a" * 32)).outcomes == ["applied"]
        await lapse(owner_connection, execution_id)
        new = old.another()

        taken_over = await new.bind(execution_id)
        late = await old.deliver(ended, epoch="a" * 32, number=2)
        late_call = await old.call(
            "PATCH", f"/v1/executions/{execution_id}", {"status": "FAILED"}, user=WORLD.owner
        )
        applied = await new.deliver(ended)

    assert taken_over.status == 200
    assert late.outcomes == ["binding-revoked"]
    assert late_call.outcome == (403, "binding-revoked")
    assert applied.outcomes == ["applied"]
    assert await status_of(owner_connection, execution_id) == 3


async def test_a_stolen_spool_without_the_key_delivers_nothing_and_its_owner_all(
    database: Database, owner_connection: Any, tmp_path: Path
) -> None:
    own, stolen = tmp_path / "own", tmp_path / "stolen"
    async with running_stack(database.central_url, own, is_delivering=False) as stack:
        execution_id = await stack.create()
        for name in ("RUNNING", "COMPLETED"):
            kept = await stack.call("PATCH", f"/v1/executions/{execution_id}", {"status": name})
            assert kept.status == 202
    shutil.copytree(own, stolen, ignore=shutil.ignore_patterns(KEY_FILE_NAME))
    assert (stolen / FILE_NAME).exists()
    assert (own / KEY_FILE_NAME).exists()

    async with running_stack(database.central_url, stolen) as thief:
        await thief.sidecar.delivery.flush(20)
        refused = await thief.sidecar.spool.list_writes(WORLD.owner.user_id, WriteState.REFUSED, 10)
        new_write = await thief.call(
            "PATCH",
            f"/v1/executions/{execution_id}",
            {"status": "KILLED"},
            headers={"Prefer": "wait=20"},
        )
    untouched = await status_of(owner_connection, execution_id)
    async with running_stack(database.central_url, own) as owner:
        await owner.sidecar.delivery.flush(20)

    assert [(record.problem or {})["type"] for record in refused] == ["not-bound"] * 2
    assert new_write.outcome == (409, "bound-elsewhere")
    assert untouched == 0
    assert await status_of(owner_connection, execution_id) == 3


class Recorder:
    """What a thief on the wire saw of one call, to send it again in any form."""

    def __init__(self, sidecar: Sidecar, method: str, target: str, body: bytes) -> None:
        self.sidecar, self.method, self.target, self.body = sidecar, method, target, body
        self.token = mint(WORLD.owner.user_id)
        self.headers = sidecar.key.headers(
            method, target, body, token=self.token, idempotency_key="the-key"
        )

    @classmethod
    def without_user(cls, sidecar: Sidecar, target: str, body: object) -> "Recorder":
        """A call that the sidecar makes for itself: no token, no idempotency key."""
        content = json.dumps(body).encode()
        recorder = cls(sidecar, "POST", target, content)
        recorder.headers = sidecar.key.headers("POST", target, content)
        return recorder

    async def send(
        self, *, method: str = "", target: str = "", body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        async with self.sidecar.client.request(
            method or self.method,
            target or self.target,
            data=self.body if body is None else body,
            headers=self.headers | {name.replace("_", "-"): text for name, text in headers.items()},
        ) as response:
            return response.status, await response.json(content_type=None)


@pytest.fixture
async def sidecar(database: Database) -> AsyncIterator[Sidecar]:
    async with running_central(database.central_url) as sidecar:
        yield sidecar


@pytest.fixture
async def seen(sidecar: Sidecar) -> Recorder:
    execution_id = (await sidecar.create()).body["execution_id"]
    target = f"/v1/executions/{execution_id}"
    return Recorder(sidecar, "PATCH", target, b'{"status": "RUNNING", "name": "first"}')


async def test_a_captured_signature_is_valid_for_no_other_call(
    seen: Recorder, sidecar: Sidecar, owner_connection: Any
) -> None:
    other = (await sidecar.create()).body["execution_id"]

    replies = [
        await seen.send(body=b'{"status": "KILLED"}'),
        await seen.send(target=f"/v1/executions/{other}"),
        await seen.send(target=seen.target + "?x=1"),
        await seen.send(method="PUT", target=seen.target + "/operator-costs"),
        await seen.send(method="DELETE", target=seen.target + "/uris"),
        await seen.send(Idempotency_Key="another-key"),
        await seen.send(Authorization=f"Bearer {mint(WORLD.owner.user_id, ttl_s=4711)}"),
    ]

    assert {(status, response["type"]) for status, response in replies} == {
        (401, "assertion-invalid")
    }
    assert await status_of(owner_connection, other) == 0


async def test_a_call_replayed_as_it_was_changes_nothing(
    seen: Recorder, sidecar: Sidecar, owner_connection: Any
) -> None:
    first = await seen.send()
    later = await sidecar.call(
        "PATCH", seen.target, {"status": "PAUSED", "name": "second"}, user=WORLD.owner
    )

    replayed = await seen.send()

    assert replayed == first
    assert (first[0], later.status) == (200, 200)
    row = await owner_connection.fetchrow(
        "SELECT status, name FROM texera_db.workflow_executions WHERE eid = $1",
        int(seen.target.rpartition("/")[2]),
    )
    assert tuple(row) == (2, "second")


async def test_a_batch_replayed_as_it_was_changes_nothing(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    execution_id = (await sidecar.create()).body["execution_id"]

    def change(name: str) -> dict[str, Any]:
        return {"execution_id": execution_id, "op": "update_execution", "name": name}

    first = await sidecar.deliver(change("first"), epoch="b" * 32)
    second = await sidecar.deliver(change("second"), epoch="b" * 32, number=2)
    again = await sidecar.deliver(change("second"), epoch="b" * 32, number=2)
    older = await sidecar.deliver(change("first"), epoch="b" * 32)

    assert first.outcomes == second.outcomes == ["applied"]
    assert again.body == second.body
    assert older.outcome == (409, "batch-out-of-step")
    name = await owner_connection.fetchval(
        "SELECT name FROM texera_db.workflow_executions WHERE eid = $1", execution_id
    )
    assert name == "second"


async def test_a_replayed_renewal_or_end_reaches_only_what_it_named_and_is_still_bound(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    """The calls without idempotency key; why no assertion is remembered (ADR 65)."""
    ended, running = [(await sidecar.create()).body["execution_id"] for _ in range(2)]
    end = {"reason": "unit-gone", "execution_ids": [ended]}
    abandon = Recorder.without_user(sidecar, "/v1/bindings/abandoned", end)
    renew = Recorder.without_user(sidecar, "/v1/lease-renewals", {"execution_ids": [running]})
    assert [(await call.send())[0] for call in (abandon, renew)] == [200, 200]
    other = sidecar.another()
    await owner_connection.execute("UPDATE cu_metadata.leases SET expires_at = now()")
    binding = f"/v1/executions/{running}/binding"
    assert (await other.call("POST", binding, {}, user=WORLD.owner)).status == 200

    again = [await call.send() for call in (abandon, renew)]

    assert again[0] == (200, {"closed": []})
    assert (again[1][0], again[1][1]["lost"]) == (
        200,
        [{"execution_id": running, "reason": "bound-elsewhere"}],
    )
    assert (
        await owner_connection.fetchval(
            "SELECT source_id FROM cu_metadata.leases WHERE execution_id = $1", running
        )
        == other.source_id
    )
