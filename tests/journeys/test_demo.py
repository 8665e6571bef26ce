"""`make demo` prints its measurements or the problem, and leaves nothing behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dev.polling import wait_until
from dev.processes import PREFIX, RunFolder
from dev.ready import Ready
from dev.texera import SAMPLE_WORKFLOW
from tests.databases import connected, share_initdb
from tests.systems import ROOT, free_port_base

DEMO_TIMEOUT_S = 60.0
RUN_STARTED = "execution 1001 created"
KILLED = 5

Disturb = Callable[["subprocess.Popen[str]", RunFolder], None]


def start_demo(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    share_initdb()
    base = str(free_port_base())
    with (folder / "demo.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dev", "demo", "--port-base", base, *arguments],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


async def newest_status(database_url: str) -> int:
    async with connected(database_url) as connection:
        return int(
            await connection.fetchval(
                "SELECT status FROM texera_db.workflow_executions ORDER BY eid DESC LIMIT 1"
            )
        )


def nothing_is_left(folder: Path) -> bool:
    return not list(folder.glob(f"{PREFIX}*"))


def disturbed_demo(folder: Path, disturb: Disturb) -> tuple[int, str]:
    """Exit code and standard error of a demo that was disturbed in the middle of its run."""
    log = folder / "demo.log"
    demo = start_demo(folder, "--poll-s", "3")
    assert wait_until(lambda: RUN_STARTED in log.read_text(), DEMO_TIMEOUT_S), log.read_text()
    [run_folder] = folder.glob(f"{PREFIX}*")
    disturb(demo, RunFolder(run_folder))
    demo.communicate(timeout=DEMO_TIMEOUT_S)
    return demo.returncode, log.read_text()


def test_demo_prints_its_measurements(system_folder: Path) -> None:
    demo = start_demo(system_folder, "--poll-s", "0.2", "--json")
    output, _ = demo.communicate(timeout=DEMO_TIMEOUT_S)

    assert demo.returncode == 0, (system_folder / "demo.log").read_text()
    measured = json.loads(output)
    assert measured["status"] == "COMPLETED"
    assert measured["errors"] == 0
    assert measured["calls"] == measured["direct_calls"]
    assert measured["writes"] >= measured["batches"] > 0
    assert 0 < measured["transactions"] < measured["direct_transactions"]
    assert nothing_is_left(system_folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_ends_everything(system_folder: Path, number: int) -> None:
    exit_code, errors = disturbed_demo(system_folder, lambda demo, _: demo.send_signal(number))

    assert exit_code == 130
    assert "interrupted; all processes have ended" in errors
    assert "Traceback" not in errors
    assert nothing_is_left(system_folder)


def test_demo_ends_with_a_problem_if_the_sidecar_dies(system_folder: Path) -> None:
    exit_code, errors = disturbed_demo(
        system_folder, lambda _, run: run.signal(signal.SIGKILL, "sidecar")
    )

    assert exit_code == 1
    assert "sidecar ended during the run" in errors
    assert nothing_is_left(system_folder)


def test_interrupted_replay_is_stored_as_killed(system: Ready) -> None:
    options = {
        "workflow": SAMPLE_WORKFLOW,
        "sidecar": system["sidecar"],
        "token": system["users"]["owner"]["token"],
        "workflow-id": system["workflow_id"],
        "computing-unit-id": system["computing_unit_id"],
    }
    command = [sys.executable, "-m", "dev", "replay"]
    replay = subprocess.Popen(
        [*command, *(f"--{name}={value}" for name, value in options.items())],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert replay.stderr is not None
    for line in replay.stderr:
        if "RUNNING" in line:
            break

    replay.send_signal(signal.SIGINT)
    _, errors = replay.communicate(timeout=DEMO_TIMEOUT_S)

    assert replay.returncode == 130, errors
    assert asyncio.run(newest_status(system["database"])) == KILLED
