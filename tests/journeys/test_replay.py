"""A replayed workflow leaves the rows that direct SQL would have left, whatever fails meanwhile."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dev.computing_unit import RunReport, run_workflow
from dev.direct_sql import DirectSqlBackend
from dev.ready import Ready
from dev.run_plan import RunPlan, plan_run
from dev.sidecar_backend import SidecarBackend
from dev.texera import SAMPLE_WORKFLOW
from dev.workflow_file import read_workflow
from tests.journeys.calls import call, create
from tests.journeys.run_rows import RunRows, fetch_run_rows
from tests.systems import ROOT, Up
from tests.workflows import replayable

POLL_S = 0.1

Failure = Callable[[Up], Coroutine[Any, Any, None]]


async def rows_of(ready: Ready, report: RunReport) -> RunRows | None:
    assert report.execution_id is not None
    connection = await asyncpg.connect(ready["database"])
    try:
        return await fetch_run_rows(connection, report.execution_id)
    finally:
        await connection.close()


async def replay(
    ready: Ready, plan: RunPlan, poll_s: float = POLL_S
) -> tuple[RunReport, set[tuple[str, str]]]:
    """The run's report, and the retried calls with their reasons."""
    owner = ready["users"]["owner"]
    async with SidecarBackend(ready["sidecar"], owner["token"]) as backend:
        return await run_workflow(ready, plan, backend, poll_s), set(backend.retries)


async def direct(ready: Ready, plan: RunPlan) -> RunReport:
    owner = ready["users"]["owner"]
    async with DirectSqlBackend(ready["database"], owner["user_id"]) as backend:
        return await run_workflow(ready, plan, backend, poll_s=0.02)


@pytest.mark.parametrize("file", replayable())
async def test_replay_leaves_the_rows_of_direct_sql(system: Ready, file: Path) -> None:
    plan = plan_run(read_workflow(file))

    replayed, retried = await replay(system, plan)
    replayed_rows = await rows_of(system, replayed)
    expected = await direct(system, plan)

    assert replayed.errors == []
    assert retried == set()
    assert replayed.status == plan.end_status
    assert replayed_rows == await rows_of(system, expected)


async def killed_sidecar(up: Up) -> None:
    """SIGKILL of the sidecar, started again from the ready file."""
    await asyncio.sleep(1.0)
    os.kill(up.published("sidecar")["pid"], signal.SIGKILL)
    await asyncio.sleep(0.3)
    up.ready["processes"]["sidecar"]["pid"] = up.restart("sidecar").pid


async def stopped_central(up: Up) -> None:
    """Central is down for ten seconds."""
    await asyncio.sleep(1.0)
    os.kill(up.published("central")["pid"], signal.SIGTERM)
    await asyncio.sleep(10)
    up.ready["processes"]["central"]["pid"] = up.restart("central").pid


async def killed_database(up: Up) -> None:
    """SIGKILL of Postgres, started again two seconds later."""
    await asyncio.sleep(1.0)
    os.kill(up.published("postgres")["pid"], signal.SIGKILL)
    await asyncio.sleep(2)
    up.ready["processes"]["postgres"]["pid"] = up.restart("postgres").pid


@pytest.mark.parametrize("failure", [killed_sidecar, stopped_central, killed_database])
async def test_failure_during_the_run_changes_no_row(up: Up, failure: Failure) -> None:
    plan = plan_run(read_workflow(SAMPLE_WORKFLOW))

    async with asyncio.TaskGroup() as group:
        group.create_task(failure(up))
        replaying = group.create_task(replay(up.ready, plan, poll_s=0.5))
    replayed, retried = replaying.result()
    replayed_rows = await rows_of(up.ready, replayed)
    expected = await direct(up.ready, plan)

    assert replayed.errors == []
    if failure is not killed_sidecar:
        assert not {call for call, _ in retried if call.startswith("store_")}
    assert replayed_rows == await rows_of(up.ready, expected)


def test_replay_with_a_new_boot_ends_the_runs_of_the_earlier_one(system: Ready) -> None:
    """Open runs of an earlier boot end before the run starts."""
    open_run = create(system)
    token = system["users"]["owner"]["token"]
    command = [
        *(sys.executable, "-m", "dev", "replay", "--workflow", str(SAMPLE_WORKFLOW), "--json"),
        *("--sidecar", system["sidecar"], "--token", token, "--poll-s", "0.1"),
        *("--workflow-id", str(system["workflow_id"]), "--boot-id", "second"),
        *("--computing-unit-id", str(system["computing_unit_id"])),
    ]

    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "COMPLETED"
    row = call(system, "GET", f"/v1/executions/{open_run}", token=token)[1]
    assert row["status"] == "FAILED"
