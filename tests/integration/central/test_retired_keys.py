"""What a key that was replaced, or revoked, may still do over HTTP: nothing that takes effect."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from central.store.bindings import Revocations
from dev.world import WORLD
from tests.databases import Database
from tests.integration.central.batching import replica
from tests.integration.central.central_fixtures import Reply, Sidecar, running_central
from tests.integration.central.command_fixtures import central
from tests.integration.central.signing import SigningKey

UNIT = f"/v1/computing-units/{WORLD.computing_unit_id}"


@pytest.fixture
async def sidecar(database: Database) -> AsyncIterator[Sidecar]:
    keys = {"CENTRAL_RUN_TOKEN_KEYS": "test:a-secret-of-run-tokens-and-nothing-else"}
    async with running_central(database.central_url, variables=keys) as sidecar:
        yield sidecar


def calls(sidecar: Sidecar, eid: int) -> dict[str, Callable[[], Awaitable[Reply]]]:
    """Every kind of call that a source signs and that takes effect or reports on its bindings."""
    run, owner = f"/v1/executions/{eid}", WORLD.owner
    renamed = {"op": "update_execution", "execution_id": eid, "name": "late"}

    def post(target: str, body: Any = None, **more: Any) -> Callable[[], Awaitable[Reply]]:
        return lambda: sidecar.call("POST", target, body, **more)

    return {
        "create": sidecar.create,
        "bind": lambda: sidecar.bind(eid),
        "write": lambda: sidecar.call("PATCH", run, {"name": "late"}, user=owner),
        "batch": lambda: sidecar.deliver(renamed),
        "renew": post("/v1/lease-renewals", {"execution_ids": [eid]}),
        "run token": post(run + "/run-token"),
        "abandon": post("/v1/bindings/abandoned", {"execution_ids": [eid], "reason": "unit-gone"}),
        "list": lambda: sidecar.call("GET", "/v1/bindings"),
        "bookmark": post(
            "/v1/executions/bookmark",
            {"workflow_id": WORLD.workflow_id, "execution_ids": [eid], "bookmarked": True},
            user=owner,
        ),
        "boot": post(UNIT + "/boots", {"boot_id": "late"}, user=owner),  # ends the run
        "rotate": lambda: sidecar.succeed(SigningKey()),
    }


async def test_the_new_key_does_all_that_the_old_one_did(sidecar: Sidecar) -> None:
    eid = (await sidecar.create()).body["execution_id"]
    successor = sidecar.another()

    rotated = await sidecar.succeed(successor.key)

    assert rotated.body == {"source_id": sidecar.source_id, "successor_id": successor.source_id}
    for name, made in calls(successor, eid).items():
        reply = await made()
        assert reply.status in (200, 201), (name, reply.body)
        if name == "renew":
            assert reply.body["lost"] == []
        if name == "batch":
            assert reply.outcomes == ["applied"]
        if name == "abandon":
            assert reply.body == {"closed": [eid]}


async def test_every_call_of_the_old_key_is_refused_and_names_the_successor(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    eid = (await sidecar.create()).body["execution_id"]
    successor = sidecar.another()
    await sidecar.succeed(successor.key)

    for name, made in calls(sidecar, eid).items():
        reply = await made()
        assert reply.outcome == (409, "source-succeeded"), name
        assert reply.body["successor_id"] == successor.source_id, name

    of_old = "select count(*) from cu_metadata.{} where source_id = $1"
    for table in ("bindings", "leases", "boots", "cursors"):
        statement = of_old.format(table)
        assert await owner_connection.fetchval(statement, sidecar.source_id) == 0, table
    (binding,) = (await successor.call("GET", "/v1/bindings")).body["bindings"]
    assert binding["execution_id"] == eid
    refused = await owner_connection.fetchval(
        "select count(*) from cu_metadata.refusals where slug = 'source-succeeded'"
    )
    assert refused >= 8


async def test_nobody_else_learns_of_the_successor(sidecar: Sidecar) -> None:
    await sidecar.create()
    successor, stranger = sidecar.another(), sidecar.another()
    await sidecar.succeed(successor.key)

    eid = (await successor.create()).body["execution_id"]
    replies = [await made() for made in calls(stranger, eid).values()]

    assert successor.source_id not in json.dumps([reply.body for reply in replies])


async def test_a_create_that_is_repeated_under_the_new_key_gets_the_first_execution(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    body = {
        "workflow_id": WORLD.workflow_id,
        "computing_unit_id": WORLD.computing_unit_id,
        "environment_version": "test",
    }
    first = await sidecar.call("POST", "/v1/executions", body, user=WORLD.owner, key="the key")
    successor = sidecar.another()
    await sidecar.succeed(successor.key)

    again = await successor.call("POST", "/v1/executions", body, user=WORLD.owner, key="the key")

    assert (again.status, again.body) == (201, first.body)
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_the_unit_is_still_held_by_its_sidecar(sidecar: Sidecar) -> None:
    """A writer's boot counts from the source of the current boot (ADR 63)."""
    await sidecar.create()
    begun = await sidecar.call("POST", UNIT + "/boots", {"boot_id": "one"}, user=WORLD.owner)
    assert begun.status == 200
    successor = sidecar.another()
    await sidecar.succeed(successor.key)

    async def boot(caller: Sidecar) -> Reply:
        return await caller.call("POST", UNIT + "/boots", {"boot_id": "two"}, user=WORLD.writer)

    from_outside, own = await boot(sidecar.another()), await boot(successor)

    assert (from_outside.outcome, own.outcome) == ((403, "boot-forbidden"), (200, ""))


BAD_STATEMENTS: dict[str, Callable[[SigningKey, str], str]] = {
    "empty": lambda key, old: "",
    "no JWT": lambda key, old: "nonsense",
    "of another key": lambda key, old: key.succession(SigningKey().source_id),
    "for another service": lambda key, old: key.succession(old, aud="another"),
    "expired": lambda key, old: key.succession(old, iat=1_000_000_000, exp=1_000_000_060),
    "good for an hour": lambda key, old: key.succession(old, exp=4_000_000_000),
    "an assertion": lambda key, old: key.headers("POST", "/v1/successions")["Sidecar-Assertion"],
    "another's signature": lambda key, old: (
        key.succession(old).rpartition(".")[0] + "." + SigningKey().succession(old).split(".")[2]
    ),
    "no characters of a JWT": lambda key, old: "é.é.é",
}


@pytest.mark.parametrize("make", BAD_STATEMENTS.values(), ids=BAD_STATEMENTS)
async def test_a_key_that_does_not_sign_for_itself_replaces_nothing(
    sidecar: Sidecar, make: Callable[[SigningKey, str], str]
) -> None:
    eid = (await sidecar.create()).body["execution_id"]
    statement = make(SigningKey(), sidecar.source_id)

    reply = await sidecar.call("POST", "/v1/successions", {"statement": statement})

    assert reply.outcome == (400, "invalid-request")
    assert "statement" in reply.body["detail"]
    assert (await sidecar.bind(eid)).status == 200


async def test_a_statement_is_no_assertion(sidecar: Sidecar) -> None:
    statement = sidecar.key.succession(sidecar.source_id)

    reply = await sidecar.call("GET", "/v1/bindings", more={"Sidecar-Assertion": statement})

    assert reply.outcome == (401, "assertion-invalid")


async def test_a_revoked_key_binds_creates_and_boots_nothing(
    sidecar: Sidecar, database: Database, owner_connection: Any
) -> None:
    eid = (await sidecar.create()).body["execution_id"]
    successor, other = sidecar.another(), sidecar.another()
    kept = (await other.create()).body["execution_id"]
    await sidecar.succeed(successor.key)

    arguments = ["sources", "revoke", "--source", sidecar.source_id, "--reason", "stolen", "--json"]
    done = central(database.central_url, *arguments)

    assert done.exit_code == 0, done.errors
    line = [sidecar.source_id, successor.source_id]
    assert json.loads(done.output) == {
        "source_ids": line,
        "bindings": [
            {
                "execution_id": eid,
                "source_id": successor.source_id,
                "user_id": WORLD.owner.user_id,
            }
        ],
    }
    for key in (sidecar, successor):
        made = calls(key, eid)
        for name in ("create", "bind", "write", "boot", "bookmark", "rotate"):
            assert (await made[name]()).outcome == (403, "source-revoked"), name
        assert (await made["list"]()).body == {"bindings": []}
        assert (await made["abandon"]()).body == {"closed": []}
        assert (await made["run token"]()).outcome == (403, "not-bound")
    made = calls(successor, eid)
    assert (await made["batch"]()).outcomes == ["binding-revoked"]
    assert (await made["renew"]()).body["lost"] == [
        {"execution_id": eid, "reason": "binding-revoked"}
    ]
    assert (await other.bind(kept)).status == 200
    assert (await other.bind(eid)).status == 200  # the run may go on elsewhere
    events = await owner_connection.fetch(
        "select source_id from cu_metadata.audit_events"
        " where action = 'revoke-source' and detail = 'stolen' order by id"
    )
    assert [event["source_id"] for event in events] == line

    again = central(database.central_url, *arguments)
    assert json.loads(again.output) == {"source_ids": line, "bindings": []}


async def test_calls_of_a_key_neither_outlive_nor_hold_up_its_revocation(
    sidecar: Sidecar, database: Database, owner_connection: Any
) -> None:
    created, is_flooded = list[int](), asyncio.Event()

    async def flood() -> Reply:
        while (reply := await sidecar.create()).status == 201:
            created.append(reply.body["execution_id"])
            if len(created) == 50:
                is_flooded.set()
        return reply

    async with replica(database) as operator:
        flooding = [asyncio.create_task(flood()) for _ in range(16)]
        await is_flooded.wait()
        started_at = time.monotonic()
        revoked = await Revocations(operator.database).revoke_source(sidecar.source_id, "stolen")
        taken_s = time.monotonic() - started_at
        replies = await asyncio.gather(*flooding)

    assert {reply.outcome for reply in replies} == {(403, "source-revoked")}
    assert {binding.execution_id for binding in revoked.bindings} == set(created)
    unrevoked = "select count(*) from cu_metadata.bindings where revoked_at is null"
    assert await owner_connection.fetchval(unrevoked) == 0
    assert taken_s < 3.0  # the role's lock timeout; 0.1 s on a quiet machine


def test_a_command_without_a_thumbprint_or_a_reason_changes_nothing() -> None:
    for arguments in (
        [],
        ["revoke"],
        ["revoke", "--reason", "stolen"],
        ["revoke", "--source", "x", "--reason", "stolen"],
        ["revoke", "--source", "x" * 43],
        ["revoke", "--source", "x" * 43, "--reason", " "],
    ):
        done = central("postgresql://nobody@127.0.0.1:9/x", "sources", *arguments)
        assert (done.exit_code, done.output) == (2, ""), arguments
