"""A sidecar reads for a run by a token of that run, whatever became of the user's own."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from dev.tokens import mint
from dev.world import WORLD
from tests.databases import Database
from tests.integration.central.central_fixtures import Reply, Sidecar, running_central
from tests.integration.central.command_fixtures import central

OLD = "old:the-first-secret-that-signs-run-tokens"
NEW = "new:another-secret-that-signs-run-tokens"


def running(
    database: Database, keys: str, account_check_s: str = "30"
) -> AbstractAsyncContextManager[Sidecar]:
    variables = {"CENTRAL_RUN_TOKEN_KEYS": keys, "CENTRAL_ACCOUNT_CHECK_S": account_check_s}
    return running_central(database.central_url, variables=variables)


@pytest.fixture
async def sidecar(database: Database) -> AsyncIterator[Sidecar]:
    async with running(database, OLD) as sidecar:
        yield sidecar


async def created(sidecar: Sidecar) -> int:
    return int((await sidecar.create(WORLD.writer)).body["execution_id"])


async def exchange(sidecar: Sidecar, execution_id: int) -> Reply:
    return await sidecar.call("POST", f"/v1/executions/{execution_id}/run-token")


async def read(sidecar: Sidecar, execution_id: int, token: str) -> Reply:
    return await sidecar.call("GET", f"/v1/executions/{execution_id}", token=token)


async def token_of(sidecar: Sidecar, execution_id: int) -> str:
    reply = await exchange(sidecar, execution_id)
    assert reply.status == 200, reply.body
    return str(reply.body["token"])


async def test_a_run_is_read_to_its_end_after_the_users_token_has_expired(
    sidecar: Sidecar,
) -> None:
    eid = await created(sidecar)

    expired = await read(sidecar, eid, mint(WORLD.writer.user_id, ttl_s=-31))
    issued = await exchange(sidecar, eid)
    done = {"op": "update_execution", "execution_id": eid, "status": "COMPLETED"}
    running_reply = await read(sidecar, eid, issued.body["token"])
    delivered = await sidecar.deliver(done)
    ended_reply = await read(sidecar, eid, issued.body["token"])
    after_the_end = await exchange(sidecar, eid)

    assert expired.outcome == (401, "token-expired")
    assert issued.headers["Cache-Control"] == "no-store"
    assert running_reply.body["status"] != "COMPLETED"
    assert running_reply.headers["X-User-Id"] == str(WORLD.writer.user_id)
    assert delivered.outcomes == ["applied"]
    assert ended_reply.body["status"] == "COMPLETED"
    assert after_the_end.outcome == (403, "not-bound")


async def test_another_source_gets_no_token(sidecar: Sidecar) -> None:
    eid = await created(sidecar)

    of_another = await exchange(sidecar.another(), eid)
    of_none = await exchange(sidecar, 999_999)

    assert of_another.outcome == of_none.outcome == (403, "not-bound")


async def test_a_revoked_binding_and_a_lapsed_lease_end_the_exchange(
    sidecar: Sidecar, database: Database, owner_connection: Any
) -> None:
    revoked, lapsed = await created(sidecar), await created(sidecar)
    of_run = ("--execution", str(revoked), "--reason", "stolen laptop")
    done = central(database.central_url, "bindings", "revoke", *of_run)
    assert done.exit_code == 0, done.errors
    await owner_connection.execute(
        "UPDATE cu_metadata.leases SET expires_at = now() - interval '1 s' WHERE execution_id = $1",
        lapsed,
    )

    assert (await exchange(sidecar, revoked)).outcome == (403, "not-bound")
    assert (await exchange(sidecar, lapsed)).outcome == (403, "not-bound")


async def test_a_take_over_moves_the_exchange_to_the_new_source(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    eid = await created(sidecar)
    other = sidecar.another()
    await owner_connection.execute(
        "UPDATE cu_metadata.leases SET expires_at = now() - interval '1 s' WHERE execution_id = $1",
        eid,
    )

    bound = await other.bind(eid, WORLD.writer)

    assert bound.status == 200, bound.body
    assert (await exchange(sidecar, eid)).outcome == (403, "not-bound")
    token = await token_of(other, eid)
    assert (await read(other, eid, token)).status == 200
    assert (await read(sidecar, eid, token)).outcome == (403, "run-token-scope")


async def test_a_withdrawn_grant_ends_the_reads_at_once(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    eid = await created(sidecar)
    token = await token_of(sidecar, eid)
    assert (await read(sidecar, eid, token)).status == 200

    await owner_connection.execute(
        "DELETE FROM texera_db.workflow_user_access WHERE uid = $1 AND wid = $2",
        WORLD.writer.user_id,
        WORLD.workflow_id,
    )

    assert (await read(sidecar, eid, token)).outcome == (404, "execution-not-found")


@pytest.mark.parametrize(("account_check_s", "read_status"), [("0.001", 403), ("0", 200)])
async def test_a_demoted_user_gets_no_token_and_reads_until_the_account_is_checked(
    database: Database, owner_connection: Any, account_check_s: str, read_status: int
) -> None:
    async with running(database, OLD, account_check_s) as sidecar:
        eid = await created(sidecar)
        token = await token_of(sidecar, eid)
        await owner_connection.execute(
            "UPDATE texera_db.\"user\" SET role = 'RESTRICTED' WHERE uid = $1",
            WORLD.writer.user_id,
        )

        assert (await exchange(sidecar, eid)).outcome == (403, "user-demoted")
        assert (await read(sidecar, eid, token)).status == read_status


async def test_keys_are_rotated_without_a_refused_call(
    sidecar: Sidecar, database: Database
) -> None:
    eid = await created(sidecar)
    old_token = await token_of(sidecar, eid)

    for keys, accepts_old in ((f"{OLD},{NEW}", True), (f"{NEW},{OLD}", True), (NEW, False)):
        async with running(database, keys) as restarted:
            after = Sidecar(restarted.client, sidecar.key)
            new_token = await token_of(after, eid)

            expected = (200, "") if accepts_old else (401, "token-invalid")
            assert (await read(after, eid, old_token)).outcome == expected, keys
            assert (await read(after, eid, new_token)).status == 200, keys


async def test_without_keys_none_is_issued_or_accepted(
    sidecar: Sidecar, database: Database
) -> None:
    eid = await created(sidecar)
    token = await token_of(sidecar, eid)

    async with running_central(database.central_url) as without:
        same = Sidecar(without.client, sidecar.key)

        assert (await exchange(same, eid)).outcome == (404, "run-tokens-disabled")
        assert (await read(same, eid, token)).outcome == (401, "token-invalid")
