"""The permission to write is withdrawn while writes are queued: each is refused with the reason."""

import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import pytest

from dev.polling import wait_until
from dev.ready import Ready
from tests.journeys.calls import call, create
from tests.systems import Up

DEMOTE = "update texera_db.\"user\" set role = 'RESTRICTED' where uid = $1"
PROMOTE = "update texera_db.\"user\" set role = 'REGULAR' where uid = $1"
REVOKE = (
    "update cu_metadata.bindings set revoked_at = now(), revoked_reason = 'test' where user_id = $1"
)
DELETE = (
    "delete from texera_db.workflow_executions where uid = $1"
    " and eid = (select max(eid) from texera_db.workflow_executions)"
)


@contextmanager
def stopped(up: Up, role: str) -> Iterator[None]:
    """The process is suspended: calls to it hang."""
    pid = up.published(role)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def change(system: Ready, sql: str) -> None:
    connection = await asyncpg.connect(system["database"])
    try:
        changed = await connection.execute(sql, system["users"]["writer"]["user_id"])
    finally:
        await connection.close()
    assert not changed.endswith(" 0")


def refused_count(system: Ready, slug: str) -> float:
    with urllib.request.urlopen(f"{system['sidecar_ops']}/metrics") as response:  # noqa: S310
        lines = response.read().decode().splitlines()
    name = f'sidecar_refused_writes_total{{slug="{slug}"}} '
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


@pytest.mark.parametrize(
    ("sql", "slug", "next_status"),
    [
        (DEMOTE, "user-demoted", 403),
        (REVOKE, "binding-revoked", 202),  # the user's token may bind anew
        (DELETE, "execution-not-found", 404),
    ],
    ids=["demoted", "revoked", "deleted"],
)
async def test_queued_writes_are_refused_with_the_reason(
    up: Up, sql: str, slug: str, next_status: int
) -> None:
    system, token = up.ready, up.ready["users"]["writer"]["token"]
    path = f"/v1/executions/{create(system, token)}"
    refused_before = refused_count(system, slug)
    with stopped(up, "central"):
        written = [
            call(system, "PATCH", path, {"status": status}, token=token)
            for status in ("RUNNING", "PAUSED", "COMPLETED")
        ]
        await change(system, sql)

    def states() -> list[tuple[object, object]]:
        responses = [
            call(system, "GET", f"/v1/writes/{body['write_id']}", token=token)[1]
            for _, body, _ in written
        ]
        return [(a["state"], (a.get("problem") or {}).get("type")) for a in responses]

    assert [status for status, _, _ in written] == [202, 202, 202]
    assert wait_until(lambda: states() == [("refused", slug)] * 3, 30), states()
    assert refused_count(system, slug) == refused_before + 3
    # The next write is refused at once, not accepted and refused later.
    again = call(system, "PATCH", path, {"status": "COMPLETED"}, token=token)
    assert again[0] == next_status, again
    if sql == DEMOTE:
        await change(system, PROMOTE)
