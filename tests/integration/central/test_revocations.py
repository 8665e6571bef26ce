"""`python -m central bindings`: an operator sees who may write, and ends it."""

import json
from typing import Any

import pytest

from dev.world import WORLD
from tests.databases import Database
from tests.integration.central.central_fixtures import Sidecar
from tests.integration.central.command_fixtures import central


def ls(database: Database, *arguments: str) -> list[dict[str, Any]]:
    done = central(database.central_url, "bindings", "ls", "--json", *arguments)
    assert done.exit_code == 0, done.errors
    bindings: list[dict[str, Any]] = json.loads(done.output)["bindings"]
    return bindings


def ids(bindings: list[dict[str, Any]]) -> set[int]:
    return {binding["execution_id"] for binding in bindings}


async def test_bindings_are_listed_by_what_they_are_of(
    sidecar: Sidecar, database: Database, owner_connection: Any
) -> None:
    other = sidecar.another()
    owners = (await sidecar.create()).body["execution_id"]
    writers = (await other.create(WORLD.writer)).body["execution_id"]
    ended = (await sidecar.create()).body["execution_id"]
    await owner_connection.execute(
        "UPDATE texera_db.workflow_executions SET status = 3 WHERE eid = $1", ended
    )
    await owner_connection.execute(
        "UPDATE cu_metadata.leases SET expires_at = now() - interval '1 s' WHERE execution_id = $1",
        owners,
    )

    assert ids(ls(database)) == {owners, writers}
    assert ids(ls(database, "--state", "all")) == {owners, writers, ended}
    assert ids(ls(database, "--state", "live")) == {writers}
    assert ids(ls(database, "--state", "revoked")) == set()
    assert ids(ls(database, "--user", str(WORLD.writer.user_id))) == {writers}
    assert ids(ls(database, "--source", other.source_id)) == {writers}
    assert ids(ls(database, "--execution", str(owners))) == {owners}
    assert ids(ls(database, "--computing-unit", str(WORLD.other_computing_unit_id))) == set()
    assert len(ls(database, "--limit", "1")) == 1

    lines = central(database.central_url, "bindings", "ls").output.splitlines()
    assert lines[0].split() == ["EXECUTION", "USER", "UNIT", "STATUS", "CREATED", "STATE", "SOURCE"]
    assert {line.split()[0] for line in lines[1:]} == {str(owners), str(writers)}
    assert any("lapsed at" in line for line in lines)


async def test_what_is_revoked_is_written_to_no_more(sidecar: Sidecar, database: Database) -> None:
    revoked, kept = [(await sidecar.create()).body["execution_id"] for _ in range(2)]

    done = central(
        database.central_url, "bindings", "revoke", "--execution", str(revoked),
        "--reason", "stolen laptop", "--json",
    )  # fmt: skip

    assert done.exit_code == 0, done.errors
    assert json.loads(done.output) == {
        "revoked": [
            {
                "execution_id": revoked,
                "source_id": sidecar.source_id,
                "user_id": WORLD.owner.user_id,
            }
        ]
    }
    (listed,) = ls(database, "--state", "revoked")
    assert (listed["execution_id"], listed["revoked_reason"]) == (revoked, "stolen laptop")
    for execution_id, expected in ((revoked, (403, "binding-revoked")), (kept, (200, ""))):
        run = f"/v1/executions/{execution_id}"
        written = await sidecar.call("PATCH", run, {"status": "RUNNING"}, user=WORLD.owner)
        assert written.outcome == expected


async def test_a_source_is_revoked_as_a_whole(sidecar: Sidecar, database: Database) -> None:
    runs = {(await sidecar.create()).body["execution_id"] for _ in range(3)}
    other = (await sidecar.another().create()).body["execution_id"]

    arguments = ["--source", sidecar.source_id, "--reason", "key may be known"]
    done = central(database.central_url, "bindings", "revoke", *arguments)

    assert (done.exit_code, len(done.output.splitlines())) == (0, 3)
    assert ids(ls(database)) == {other}
    assert ids(ls(database, "--state", "revoked")) == runs
    again = central(database.central_url, "bindings", "revoke", *arguments)
    assert (again.exit_code, again.output) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (["revoke", "--reason", "x"], 1),
        (["revoke", "--execution", "1"], 2),
        (["revoke", "--execution", "1", "--reason", " "], 2),
        (["revoke", "--execution", "1", "--reason", "x" * 501], 2),
        (["ls", "--execution", "0"], 2),
        (["ls", "--execution", "one"], 2),
        (["ls", "--state", "dead"], 2),
        ([], 2),
    ],
    ids=str,
)
def test_a_command_that_says_too_little_changes_nothing(
    arguments: list[str], exit_code: int
) -> None:
    done = central("postgresql://nobody@127.0.0.1:9/x", "bindings", *arguments)

    assert (done.exit_code, done.output) == (exit_code, "")
    assert done.errors


def test_an_unreachable_database_has_an_exit_code_of_its_own() -> None:
    done = central("postgresql://nobody:hidden@127.0.0.1:9/x", "bindings", "ls")

    assert done.exit_code == 69
    assert "database-unavailable" in done.errors
    assert "hidden" not in done.errors
    assert central("", "bindings", "ls").exit_code == 64
