"""Bindings: one live writing source per execution, made with the token of the execution's user."""

import asyncio
from typing import Any

import pytest

from central.store.bindings import MAX_LATE_BINDINGS
from dev.world import WORLD
from tests.integration.central.central_fixtures import Sidecar
from tests.integration.central.rows import execution_by_sql

OWNER = WORLD.owner.user_id


async def bindings(connection: Any, execution_id: int) -> dict[str, str | None]:
    """Why each source's binding was revoked; None for the one that lives."""
    rows = await connection.fetch(
        "SELECT source_id, revoked_at, revoked_reason FROM cu_metadata.bindings"
        " WHERE execution_id = $1",
        execution_id,
    )
    assert all((row["revoked_at"] is None) == (row["revoked_reason"] is None) for row in rows)
    return {row["source_id"]: row["revoked_reason"] for row in rows}


async def lapse(connection: Any, execution_id: int) -> None:
    await connection.execute(
        "UPDATE cu_metadata.leases SET expires_at = now() - interval '1 s' WHERE execution_id = $1",
        execution_id,
    )


async def revoke(connection: Any, execution_id: int) -> None:
    await connection.execute(
        "UPDATE cu_metadata.bindings SET revoked_at = now(), revoked_reason = 'revoked'"
        " WHERE execution_id = $1",
        execution_id,
    )


async def lease(connection: Any, execution_id: int) -> Any:
    return await connection.fetchrow(
        "SELECT source_id, expires_at, expires_at > now() AS is_live"
        " FROM cu_metadata.leases WHERE execution_id = $1",
        execution_id,
    )


async def test_an_execution_of_texeras_is_bound_on_first_use(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    execution_id = await execution_by_sql(owner_connection, status=1)

    bound = await sidecar.bind(execution_id)

    assert bound.status == 200
    assert bound.body == {
        "execution_id": execution_id,
        "workflow_id": WORLD.workflow_id,
        "computing_unit_id": WORLD.computing_unit_id,
        "user_id": OWNER,
        "status": "RUNNING",
        "status_code": 1,
        "warehouse": None,
    }
    assert await bindings(owner_connection, execution_id) == {sidecar.source_id: None}
    assert (await lease(owner_connection, execution_id))["is_live"]


async def test_the_same_source_again_gets_the_same_answer_and_a_new_lease(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    execution_id = (await sidecar.create()).body["execution_id"]
    first = await sidecar.bind(execution_id)
    await lapse(owner_connection, execution_id)

    again = await sidecar.bind(execution_id)

    assert again.body == first.body
    assert await bindings(owner_connection, execution_id) == {sidecar.source_id: None}
    assert (await lease(owner_connection, execution_id))["is_live"]


async def test_another_source_waits_for_the_lease_to_lapse(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    execution_id = (await sidecar.create()).body["execution_id"]
    other = sidecar.another()

    refused = await other.bind(execution_id)
    await lapse(owner_connection, execution_id)
    taken_over = await other.bind(execution_id)

    assert refused.outcome == (409, "bound-elsewhere")
    assert taken_over.status == 200
    assert await bindings(owner_connection, execution_id) == {
        sidecar.source_id: "taken-over",
        other.source_id: None,
    }
    assert (await lease(owner_connection, execution_id))["source_id"] == other.source_id
    late = await sidecar.call(
        "PATCH", f"/v1/executions/{execution_id}", {"status": "RUNNING"}, user=WORLD.owner
    )
    assert late.outcome == (403, "binding-revoked")


@pytest.mark.parametrize("by_the_same_source", [True, False])
async def test_after_a_revocation_the_users_token_binds_anew(
    sidecar: Sidecar, owner_connection: Any, by_the_same_source: bool
) -> None:
    execution_id = (await sidecar.create()).body["execution_id"]
    await revoke(owner_connection, execution_id)
    binder = sidecar if by_the_same_source else sidecar.another()

    assert (await binder.bind(execution_id)).status == 200

    assert (await bindings(owner_connection, execution_id))[binder.source_id] is None


async def test_a_replay_does_not_undo_a_revocation(sidecar: Sidecar, owner_connection: Any) -> None:
    execution_id = await execution_by_sql(owner_connection)
    first = await sidecar.bind(execution_id, key="the-key")
    await revoke(owner_connection, execution_id)

    replayed = await sidecar.bind(execution_id, key="the-key")

    assert replayed.body == first.body
    assert await bindings(owner_connection, execution_id) == {sidecar.source_id: "revoked"}


async def test_of_sources_that_bind_at_once_one_wins(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    execution_id = await execution_by_sql(owner_connection)
    others = [sidecar.another() for _ in range(8)]

    replies = await asyncio.gather(*(other.bind(execution_id) for other in others))

    outcomes = [reply.outcome for reply in replies]
    assert sorted(outcomes) == [(200, ""), *[(409, "bound-elsewhere")] * 7]
    winner = others[outcomes.index((200, ""))].source_id
    assert await bindings(owner_connection, execution_id) == {winner: None}


async def test_what_has_ended_is_bound_without_a_lease(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    bound = await sidecar.bind(WORLD.completed_execution_id)

    assert (bound.status, bound.body["status"]) == (200, "COMPLETED")
    assert await lease(owner_connection, WORLD.completed_execution_id) is None


@pytest.mark.parametrize("is_provisional", [True, False])
async def test_a_source_that_binds_after_the_end_does_not_revoke_the_runner(
    sidecar: Sidecar, owner_connection: Any, is_provisional: bool
) -> None:
    execution_id = (await sidecar.create()).body["execution_id"]
    other = sidecar.another()
    update = {"op": "update_execution", "execution_id": execution_id}
    if is_provisional:
        await sidecar.call("POST", "/v1/bindings/abandoned", {"execution_ids": [execution_id]})
    else:
        assert (await sidecar.deliver(update | {"status": "KILLED"})).outcomes == ["applied"]

    bound = await other.bind(execution_id)
    by_the_other = await other.deliver(
        update | {"name": "renamed"},
        update | {"status": "COMPLETED"},
        update | {"status": "FAILED"},
    )
    by_the_runner = await sidecar.deliver(update | {"status": "COMPLETED"})

    assert bound.status == 200
    assert by_the_other.outcomes == ["applied", "not-the-runner", "not-the-runner"]
    assert by_the_runner.outcomes == ["applied"]
    assert await bindings(owner_connection, execution_id) == {
        sidecar.source_id: None,
        other.source_id: None,
    }
    row = await owner_connection.fetchrow(
        "select status, name from texera_db.workflow_executions where eid = $1", execution_id
    )
    assert tuple(row) == (3, "renamed")


async def test_a_source_that_was_taken_over_sets_no_status_after_the_end(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    execution_id = (await sidecar.create()).body["execution_id"]
    other = sidecar.another()
    update = {"op": "update_execution", "execution_id": execution_id}
    await lapse(owner_connection, execution_id)
    await other.bind(execution_id)
    assert (await other.deliver(update | {"status": "FAILED"})).outcomes == ["applied"]

    assert (await sidecar.bind(execution_id)).status == 200

    late = await sidecar.deliver(update | {"status": "COMPLETED"}, update | {"name": "n"})
    assert late.outcomes == ["not-the-runner", "applied"]


async def test_a_runner_that_an_operator_revoked_binds_again_as_the_runner(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    execution_id = (await sidecar.create()).body["execution_id"]
    await owner_connection.execute(
        "update texera_db.workflow_executions set status = 5 where eid = $1", execution_id
    )
    await revoke(owner_connection, execution_id)

    await sidecar.bind(execution_id)

    end = {"op": "update_execution", "execution_id": execution_id, "status": "KILLED"}
    assert (await sidecar.deliver(end)).outcomes == ["applied"]


async def test_of_sources_bound_to_a_reopened_run_only_the_runner_gets_a_lease(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    execution_id = (await sidecar.create()).body["execution_id"]
    other = sidecar.another()
    set_status = "update texera_db.workflow_executions set status = $2 where eid = $1"
    await owner_connection.execute(set_status, execution_id, 4)
    await other.bind(execution_id)
    await owner_connection.execute(set_status, execution_id, 1)
    await owner_connection.execute("delete from cu_metadata.leases")

    renewals = [
        await s.call("POST", "/v1/lease-renewals", {"execution_ids": [execution_id]})
        for s in (other, sidecar)
    ]
    bound = await other.bind(execution_id)
    open_bindings = (await other.call("GET", "/v1/bindings")).body["bindings"]

    assert [r.body["lost"] for r in renewals] == [
        [{"execution_id": execution_id, "reason": "bound-elsewhere"}],
        [],
    ]
    assert (await lease(owner_connection, execution_id))["source_id"] == sidecar.source_id
    assert bound.outcome == (409, "bound-elsewhere")
    assert open_bindings == []


async def test_a_source_learns_its_open_bindings_and_nobody_elses(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    open_run, ended, revoked, deleted = [
        (await sidecar.create()).body["execution_id"] for _ in range(4)
    ]
    elsewhere = sidecar.another()
    elsewhere_run = (await elsewhere.create(WORLD.writer)).body["execution_id"]
    await owner_connection.execute(
        "UPDATE texera_db.workflow_executions SET status = 5 WHERE eid = $1", ended
    )
    await revoke(owner_connection, revoked)
    await owner_connection.execute(
        "DELETE FROM texera_db.workflow_executions WHERE eid = $1", deleted
    )

    own, others = [await s.call("GET", "/v1/bindings") for s in (sidecar, elsewhere)]
    nobodys = await sidecar.another().call("GET", "/v1/bindings")

    (binding,) = own.body["bindings"]
    assert binding.pop("created_at").endswith("Z")
    assert binding == {
        "execution_id": open_run,
        "workflow_id": WORLD.workflow_id,
        "computing_unit_id": WORLD.computing_unit_id,
        "user_id": OWNER,
    }
    assert [b["execution_id"] for b in others.body["bindings"]] == [elsewhere_run]
    assert nobodys.body == {"bindings": []}


async def test_a_token_says_whose_it_is(sidecar: Sidecar) -> None:
    reply = await sidecar.get("/v1/token", WORLD.admin)

    assert (reply.body["user_id"], reply.body["role"]) == (WORLD.admin.user_id, "ADMIN")
    assert reply.body["expires_at"].endswith("Z")


async def test_bindings_after_the_end_are_bounded_per_execution(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    """Sources are keys that anyone can make, and each row is kept for months."""
    execution_id = (await sidecar.create()).body["execution_id"]
    end = {"status": "COMPLETED"}
    await sidecar.call("PATCH", f"/v1/executions/{execution_id}", end, user=WORLD.owner)
    late = [sidecar.another() for _ in range(MAX_LATE_BINDINGS + 1)]

    bound = [(await one.bind(execution_id)).outcome for one in late]

    assert bound == [(200, "")] * MAX_LATE_BINDINGS + [(429, "rate-limited")]
    assert (await late[0].bind(execution_id)).status == 200  # it is bound already
    assert (await sidecar.bind(execution_id)).status == 200  # the runner
    await owner_connection.execute(
        "UPDATE cu_metadata.bindings SET revoked_at = now(), revoked_reason = 'revoked'"
        " WHERE source_id = $1",
        late[0].source_id,
    )
    assert (await late[-1].bind(execution_id)).status == 200
