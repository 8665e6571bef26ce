"""`dev up`: its ready file, and that it leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from dev.polling import wait_until
from dev.ports import Ports, is_free
from dev.postgres import Cluster
from dev.processes import RunFolder
from dev.ready import Ready
from tests.databases import connected, empty_database, share_initdb
from tests.systems import (
    ROOT,
    Up,
    free_port_base,
    is_alive,
    running_system,
    start_up,
    wait_until_gone,
)

ROLES = ["postgres", "central", "sidecar"]


def run_folder(up: Up) -> RunFolder:
    """The temporary folder of a run."""
    marker = up.published("sidecar")["env"]["DEV_RUN"]
    return RunFolder(Path(marker.rpartition(":")[0]))


def ports_are_free(ready: Ready) -> bool:
    """Whether no process listens any more."""
    base = int(ready["sidecar"].rpartition(":")[2])
    ports = Ports(base)
    return all(map(is_free, (ports.sidecar, ports.central, ports.central_ops, ports.postgres)))


async def latest_execution(ready: Ready, token: str) -> int:
    """The status of a user's read of the private workflow."""
    url = (
        f"{ready['sidecar']}/v1/workflows/{ready['workflow_id']}/executions/latest"
        f"?computing_unit_id={ready['computing_unit_id']}"
    )
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status


async def wait_until_served(ready: Ready, timeout_s: float = 20.0) -> None:
    """Wait until sidecar, central and Postgres serve the owner again."""
    deadline = time.monotonic() + timeout_s
    status = 0
    while status != 200:
        assert time.monotonic() < deadline, f"still {status}"
        try:
            # A fresh token, because the sidecar has cached the response for the others.
            status = await latest_execution(ready, fresh_token())
        except aiohttp.ClientError:
            status = 0


def fresh_token() -> str:
    """A new token of the owner, from the command."""
    ttl_s = str(3600 + time.monotonic_ns() % 10**6)
    command = [sys.executable, "-m", "dev", "token", "--user-id", "1", "--ttl", ttl_s]
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_ready_file_has_exactly_the_documented_fields(system: Ready) -> None:
    assert set(system) == {
        *("sidecar", "sidecar_ops", "central", "central_ops", "database", "users"),
        *("workflow_id", "public_workflow_id", "computing_unit_id", "other_computing_unit_id"),
        "processes",
    }
    assert set(system["processes"]) == {"sidecar", "central", "postgres"}
    for process in system["processes"].values():
        assert set(process) == {"pid", "argv", "env"}
        assert is_alive(process["pid"])


def test_sidecar_environment_has_no_secret(system: Ready) -> None:
    env = system["processes"]["sidecar"]["env"]

    others = {name for name in env if not name.startswith("SIDECAR_")}
    assert others <= {"PATH", "HOME", "PYTHONPATH", "LD_LIBRARY_PATH", "DEV_RUN"}
    assert not [value for value in env.values() if "postgres" in value or "Secret" in value]


async def test_published_users_have_their_grants(system: Ready) -> None:
    statuses = {
        name: await latest_execution(system, user["token"])
        for name, user in system["users"].items()
    }

    assert statuses.pop("restricted") in {401, 403}
    assert statuses == {
        **dict.fromkeys(("owner", "writer", "reader", "admin"), 200),
        "stranger": 404,
    }


async def test_database_url_is_the_table_owners(system: Ready) -> None:
    async with connected(system["database"]) as connection:
        owner = await connection.fetchval(
            "SELECT tableowner = current_user FROM pg_tables WHERE tablename = 'workflow'"
        )

    assert owner is True


async def test_processes_restarted_from_the_file_end_with_the_rest(
    system_folder: Path,
) -> None:
    with running_system(system_folder) as up:
        restarted = []
        for role in ROLES:
            pid = up.published(role)["pid"]
            os.kill(pid, signal.SIGKILL)
            assert wait_until_gone([pid]) == []
            assert up.process.poll() is None

            restarted.append(up.restart(role))
            await wait_until_served(up.ready)

        assert up.end() == 0

        for process in restarted:
            process.wait(10)
        assert run_folder(up).pids() == []
        assert not run_folder(up).path.exists()
        assert ports_are_free(up.ready)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_all_of_it_and_leaves_nothing(
    system_folder: Path, signal_number: signal.Signals
) -> None:
    up = start_up(system_folder)
    pids = [process["pid"] for process in up.ready["processes"].values()]

    assert up.end(signal_number) == 0

    assert wait_until_gone(pids, timeout_s=0) == []
    assert [path.name for path in system_folder.iterdir()] == ["up.log"]
    assert (system_folder / "up.log").read_text() == ""


async def test_killed_dev_up_leaves_no_process_and_no_folder(system_folder: Path) -> None:
    up = start_up(system_folder)
    os.kill(up.published("central")["pid"], signal.SIGKILL)
    restarted = up.restart("central")  # no child of the one that is killed now
    await wait_until_served(up.ready)
    pids = run_folder(up).pids()
    assert restarted.pid in pids
    assert len(pids) == len(ROLES)

    up.end(signal.SIGKILL)

    restarted.wait(10)
    assert wait_until_gone(pids) == []
    assert wait_until(lambda: not run_folder(up).path.exists(), timeout_s=10)


@contextmanager
def starting(folder: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """`dev up` as it starts, its errors to be read."""
    share_initdb()
    command = [sys.executable, "-m", "dev", "up", "--ready-file", str(folder / "ready.json")]
    with subprocess.Popen(
        [*command, "--port-base", str(free_port_base()), *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()  # nothing happens if it has ended


@pytest.mark.parametrize("log", ["postgres.log", "migrate.log", "sidecar.log"])
def test_signal_during_the_start_leaves_nothing(system_folder: Path, log: str) -> None:
    with starting(system_folder) as process:
        pattern = f"texera-dev-*/logs/{log}"
        assert wait_until(lambda: any(system_folder.glob(pattern)), timeout_s=30)
        folder = RunFolder(next(system_folder.glob("texera-dev-*")))

        process.terminate()

        assert process.wait(60) == 0
        assert folder.pids() == []
        assert list(system_folder.iterdir()) == []


def test_failed_start_shows_the_end_of_the_log(system_folder: Path) -> None:
    with starting(system_folder, "--set", "CENTRAL_LEASE_S=soon") as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert errors.startswith("dev up: central ended with exit code 64. Its last lines:")
    assert "CENTRAL_LEASE_S" in errors
    assert list(system_folder.iterdir()) == []


def test_port_in_use_is_named(system_folder: Path, system: Ready) -> None:
    base = system["sidecar"].rpartition(":")[2]
    with starting(system_folder, "--port-base", base) as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert f"port {base} (the sidecar)" in errors.lower()


async def test_round_trip_is_added_to_central_and_to_postgres(system_folder: Path) -> None:
    with running_system(system_folder, "--rtt-ms", "40") as up:
        await wait_until_served(up.ready)  # connections are open now
        token = fresh_token()

        started_at = time.perf_counter()
        await latest_execution(up.ready, token)
        taken_s = time.perf_counter() - started_at

        direct_s = min([await direct_query_s(up.ready) for _ in range(10)])  # of a busy machine

    assert taken_s >= 0.08
    assert direct_s < 0.08


async def direct_query_s(ready: Ready) -> float:
    """How long a connection and a query take by the published URL."""
    started_at = time.perf_counter()
    async with connected(ready["database"]) as connection:
        await connection.fetchval("SELECT 1")
    return time.perf_counter() - started_at


async def test_own_database_gets_the_world_once(cluster: Cluster, system_folder: Path) -> None:
    async with empty_database(cluster) as url:
        with running_system(system_folder, "--database-url", url) as up:
            await wait_until_served(up.ready)
            assert up.ready["database"] == url
            assert set(up.ready["processes"]) == {"sidecar", "central"}

        with starting(system_folder, "--database-url", url) as process:
            _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "not empty, it holds schema cu_metadata" in errors
