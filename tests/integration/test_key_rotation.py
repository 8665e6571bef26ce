"""A sidecar replaces its key beside the real central: whatever is lost, one key works."""

import asyncio
import os
import shutil
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dev.world import WORLD
from sidecar.cli import rotate_key
from sidecar.problems import CentralUnavailable, UpstreamProblem
from sidecar.spool.entry import WriteState
from sidecar.upstream.key_rotation import REFUSED_S, REQUEST_FILE_NAME, KeyRotation
from sidecar.upstream.source_identity import (
    KEY_FILE_NAME,
    NEXT_KEY_FILE_NAME,
    SourceKey,
    adopt_next,
    load_or_create,
    load_or_create_next,
)
from tests.databases import Database
from tests.stacks import Stack, running_stack
from tests.unit.sidecar.delivery_fixtures import until


def key_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if "key" in path.name}


async def source_of(connection: Any, execution_id: int) -> str:
    found = await connection.fetchval(
        "select source_id from cu_metadata.bindings where execution_id = $1", execution_id
    )
    return str(found)


async def rename(stack: Stack, execution_id: int, name: str, state: str = "committed") -> None:
    waited = {"Prefer": "wait=20"} if state == "committed" else {}
    target = f"/v1/executions/{execution_id}"
    reply = await stack.call("PATCH", target, {"name": name}, headers=waited)
    assert reply.body["state"] == state, reply.body


async def test_what_was_bound_is_written_under_the_new_key(
    database: Database, owner_connection: Any, tmp_path: Path
) -> None:
    async with running_stack(database.central_url, tmp_path) as stack:
        eid, sidecar = await stack.create(), stack.sidecar
        old_id = sidecar.identity.source_id
        await rename(stack, eid, "before")

        await sidecar.key_rotation.rotate()

        new_id = sidecar.identity.source_id
        await rename(stack, eid, "after")
        renewed = await sidecar.central.renew_leases([eid])
        assert (await source_of(owner_connection, eid), renewed.lost) == (new_id, [])
        assert await source_of(owner_connection, await stack.create()) == new_id != old_id
        assert key_files(tmp_path) == {KEY_FILE_NAME}
    async with running_stack(database.central_url, tmp_path) as stack:
        assert stack.sidecar.identity.source_id == new_id
        await rename(stack, eid, "later")


async def crash_before_the_call(stack: Stack) -> None:
    load_or_create_next(stack.sidecar.settings.spool_dir)


async def crash_without_the_response(stack: Stack) -> None:
    identity = stack.sidecar.identity
    identity.next_key = SourceKey(load_or_create_next(stack.sidecar.settings.spool_dir))
    await stack.sidecar.central.succeed(identity.succession(now=time.time()))


async def crash_before_the_new_file_takes_its_place(stack: Stack) -> None:
    await crash_without_the_response(stack)
    identity = stack.sidecar.identity
    assert identity.next_key is not None
    identity.accept_successor(identity.next_key.source_id)
    assert (await stack.sidecar.central.open_bindings(min_age_s=0)) != []


async def crash_after_it(stack: Stack) -> None:
    await crash_before_the_new_file_takes_its_place(stack)
    adopt_next(stack.sidecar.settings.spool_dir)


@pytest.mark.parametrize(
    "crash",
    [
        crash_before_the_call,
        crash_without_the_response,
        crash_before_the_new_file_takes_its_place,
        crash_after_it,
    ],
)
async def test_a_crash_at_any_point_ends_in_one_working_key(
    crash: Callable[[Stack], Awaitable[None]],
    database: Database,
    owner_connection: Any,
    tmp_path: Path,
) -> None:
    async with running_stack(database.central_url, tmp_path, is_delivering=False) as stack:
        eid = await stack.create()
        await rename(stack, eid, "queued", "durable")
        await crash(stack)

    async with running_stack(database.central_url, tmp_path) as stack:
        created = await stack.create()
        assert await stack.sidecar.delivery.flush(20) == 0
        await rename(stack, eid, "after")
        if key_files(tmp_path) != {KEY_FILE_NAME}:
            await stack.sidecar.key_rotation.rotate()
        await rename(stack, created, "in the end")
        writes = await stack.sidecar.spool.list_writes(WORLD.owner.user_id, None, 10)

        assert {write.state for write in writes} == {WriteState.COMMITTED}
        assert key_files(tmp_path) == {KEY_FILE_NAME}
        for execution_id in (eid, created):
            assert (
                await source_of(owner_connection, execution_id) == stack.sidecar.identity.source_id
            )


async def test_a_batch_whose_response_was_lost_is_not_applied_again_under_the_new_key(
    database: Database, owner_connection: Any, tmp_path: Path
) -> None:
    async with running_stack(database.central_url, tmp_path, is_delivering=False) as stack:
        eid, spool = await stack.create(), stack.sidecar.spool
        await rename(stack, eid, "once", "durable")
        batch = await spool.cut(flush=True, max_entries=10, max_bytes=1_000_000)
        assert batch is not None
        lost = await stack.sidecar.central.deliver(batch, spool.now_ms())
        await owner_connection.execute(
            "update texera_db.workflow_executions set name = 'by somebody else' where eid = $1", eid
        )
        await stack.sidecar.key_rotation.rotate()

        again = await stack.sidecar.central.deliver(batch, spool.now_ms())

    assert again == lost
    name = "select name from texera_db.workflow_executions where eid = $1"
    assert await owner_connection.fetchval(name, eid) == "by somebody else"


async def test_calls_that_meet_a_rotation_succeed(database: Database, tmp_path: Path) -> None:
    async with running_stack(database.central_url, tmp_path) as stack:
        eid, is_done = await stack.create(), asyncio.Event()

        async def work(number: int) -> int:
            count = 0
            while not is_done.is_set():
                await rename(stack, eid, f"{number}-{count}")
                await rename(stack, await stack.create(), "new")
                lost = (await stack.sidecar.central.renew_leases([eid])).lost
                assert lost == []
                count += 1
            return count

        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(work(number)) for number in range(4)]
            for _ in range(10):
                await stack.sidecar.key_rotation.rotate()
                await asyncio.sleep(0.1)
            is_done.set()
        writes = await stack.sidecar.spool.list_writes(WORLD.owner.user_id, None, 10_000)

    assert all(worker.result() for worker in workers)
    assert {write.state for write in writes} == {WriteState.COMMITTED}


async def test_without_central_the_old_key_stays_and_the_attempt_is_repeated(
    database: Database, tmp_path: Path
) -> None:
    async with running_stack(database.central_url, tmp_path) as stack:
        await stack.create()
        sidecar = stack.sidecar
        old_id = sidecar.identity.source_id
        unreachable = KeyRotation(
            tmp_path, sidecar.identity, Unreachable(), sidecar.metrics, max_age_s=0
        )
        for _ in range(2):
            with pytest.raises(CentralUnavailable):
                await unreachable.rotate()
        next_key = sidecar.identity.next_key

        assert (sidecar.identity.source_id, next_key is not None) == (old_id, True)
        await stack.create()
        await sidecar.key_rotation.rotate()
        assert next_key is not None
        assert sidecar.identity.source_id == next_key.source_id


class Unreachable:
    clock_offset_s = 0.0

    async def succeed(self, statement: str) -> None:
        raise CentralUnavailable("central cannot be reached", retry_after_s=1)


async def test_a_sidecar_that_is_bound_to_nothing_keeps_its_key(
    database: Database, tmp_path: Path
) -> None:
    async with running_stack(database.central_url, tmp_path) as stack:
        with pytest.raises(UpstreamProblem) as refused:
            await stack.sidecar.key_rotation.rotate()
        await rename(stack, await stack.create(), "works")

    assert refused.value.slug == "source-not-bound"


async def test_after_a_refusal_it_waits_for_hours_or_for_an_operator(
    database: Database, tmp_path: Path
) -> None:
    """Each refusal is a row of central's audit, and idle units are many."""
    async with running_stack(database.central_url, tmp_path) as stack:
        os.utime(tmp_path / KEY_FILE_NAME, (0, 0))
        async with rotating(stack, max_age_s=1800) as clock:
            await until(lambda: rotations(stack, "refused") == 1)
            clock.now_s += 3600
            await asyncio.sleep(0.2)
            assert rotations(stack, "refused") == 1
            (tmp_path / REQUEST_FILE_NAME).touch()
            await until(lambda: rotations(stack, "refused") == 2)
            await stack.create()
            await asyncio.sleep(0.2)
            assert rotations(stack) == 0
            clock.now_s += REFUSED_S
            await until(lambda: rotations(stack) == 1)
            assert not (tmp_path / REQUEST_FILE_NAME).exists()


async def test_a_next_key_that_appears_meanwhile_is_not_taken_without_central(
    database: Database, owner_connection: Any, tmp_path: Path
) -> None:
    async with running_stack(database.central_url, tmp_path) as stack:
        eid = await stack.create()
        load_or_create_next(tmp_path)

        await stack.sidecar.key_rotation.rotate()

        await rename(stack, eid, "after")
        new_id = stack.sidecar.identity.source_id
        assert await source_of(owner_connection, eid) == new_id
        assert SourceKey(load_or_create(tmp_path)).source_id == new_id


async def test_a_copied_key_that_rotates_first_is_noticed_and_nothing_is_lost(
    database: Database, tmp_path: Path
) -> None:
    own, copied = tmp_path / "own", tmp_path / "copied"
    async with running_stack(database.central_url, own) as stack:
        eid = await stack.create()
        copied.mkdir(mode=0o700)
        shutil.copy2(own / KEY_FILE_NAME, copied)
        async with running_stack(database.central_url, copied, is_delivering=False) as thief:
            await thief.sidecar.key_rotation.rotate()

        await rename(stack, eid, "kept", "durable")
        await until(lambda: stack.sidecar.delivery.parked_because is not None)
        refused = await stack.call("POST", "/v1/executions", new_execution())

        assert (stack.sidecar.delivery.parked_because or "").startswith("source-succeeded")
        assert stack.sidecar.spool.queues.entry_count == 1
        assert refused.outcome == (409, "source-succeeded")


def new_execution() -> dict[str, Any]:
    return {
        "workflow_id": WORLD.workflow_id,
        "computing_unit_id": WORLD.computing_unit_id,
        "environment_version": "test",
    }


@dataclass
class Clock:
    """The monotonic one."""

    now_s: float = 100.0


@asynccontextmanager
async def rotating(stack: Stack, max_age_s: float = 0) -> AsyncIterator[Clock]:
    """The task of a sidecar that serves, which looks for work all the time."""
    sidecar, clock = stack.sidecar, Clock()

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0.01)

    rotation = KeyRotation(
        sidecar.settings.spool_dir,
        sidecar.identity,
        sidecar.central,
        sidecar.metrics,
        max_age_s=max_age_s,
        monotonic=lambda: clock.now_s,
        sleep=sleep,
    )
    running = asyncio.create_task(rotation.run())
    try:
        yield clock
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def rotations(stack: Stack, outcome: str = "rotated") -> float:
    name = "sidecar_key_rotations_total"
    return stack.sidecar.metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0.0


async def test_a_key_is_replaced_once_it_is_too_old(database: Database, tmp_path: Path) -> None:
    async with running_stack(database.central_url, tmp_path) as stack:
        await stack.create()
        old_id = stack.sidecar.identity.source_id
        made_at = time.time() - 3600
        async with rotating(stack, max_age_s=1800):
            await asyncio.sleep(0.2)
            assert stack.sidecar.identity.source_id == old_id
            os.utime(tmp_path / KEY_FILE_NAME, (made_at, made_at))
            await until(lambda: rotations(stack) > 0)
            await asyncio.sleep(0.2)

            assert stack.sidecar.key_rotation.age_s() < 1800
        assert (rotations(stack), stack.sidecar.identity.source_id != old_id) == (1, True)


async def test_a_key_is_replaced_on_an_operators_command(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variables = {"SIDECAR_CENTRAL_URL": "http://central", "SIDECAR_SPOOL_DIR": str(tmp_path)}

    def command(timeout_s: float) -> int:
        return rotate_key.run(Namespace(timeout_s=timeout_s), variables)

    assert command(0) == rotate_key.EXIT_NO_INPUT
    async with running_stack(database.central_url, tmp_path) as stack:
        await stack.create()
        old_id = stack.sidecar.identity.source_id
        assert await asyncio.to_thread(command, 0) == rotate_key.EXIT_PENDING
        (tmp_path / REQUEST_FILE_NAME).unlink()  # it remains, for a sidecar that starts later
        async with rotating(stack):
            done = await asyncio.to_thread(command, 20)
            await asyncio.sleep(0.2)
        new_id = stack.sidecar.identity.source_id

    assert done == 0
    assert not (tmp_path / NEXT_KEY_FILE_NAME).exists()
    assert f"was replaced by {new_id}" in capsys.readouterr().out
    assert new_id != old_id
