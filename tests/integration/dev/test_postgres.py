"""The embedded Postgres starts, stops, and leaves no process."""

import os
import pwd
import signal
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from dev.postgres import (
    INITDB_TEMPLATE,
    Cluster,
    create_cluster,
    processes_in,
    running,
    wait_for_orphans,
)
from dev.postgres_binaries import WHEEL, find_binaries
from dev.postgres_user import OsUser, postgres_user
from dev.problems import DevProblem, StartFailed
from dev.texera import create_owner
from tests.databases import ROOT, connected, free_port, open_folder
from tests.systems import wait_until_gone


async def test_owner_is_no_superuser_and_time_zone_is_utc(cluster: Cluster) -> None:
    async with connected(cluster.url()) as connection:
        facts = await connection.fetchrow(
            "SELECT current_setting('is_superuser') AS superuser, current_setting('timezone') AS"
            " timezone, current_setting('server_encoding') AS encoding,"
            " (SELECT datcollate FROM pg_database WHERE datname = current_database()) AS collation"
        )

    assert facts is not None
    assert dict(facts) == {
        "superuser": "off",
        "timezone": "UTC",
        "encoding": "UTF8",
        "collation": "C",
    }


async def test_owner_can_read_and_reset_statement_statistics(cluster: Cluster) -> None:
    async with connected(cluster.url()) as connection:
        await connection.execute("SELECT pg_stat_statements_reset()")
        await connection.execute("SELECT 1 AS counted")

        calls = await connection.fetchval(
            "SELECT calls FROM pg_stat_statements WHERE query LIKE 'SELECT $1 AS counted'"
        )

    assert calls == 1


async def test_tcp_requires_the_password(cluster: Cluster) -> None:
    wrong = cluster.url().replace(cluster.owner_password, "wrong")

    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(wrong)


async def test_server_stops_with_the_block_and_leaves_no_process() -> None:
    with open_folder() as folder:
        cluster = create_cluster(folder / "postgres", free_port(), os.environ)
        with running(cluster, folder / "postgres.log") as pid:
            await create_owner(cluster)
            started = processes_in(cluster.folder / "data")
            assert pid in started

        assert wait_until_gone(started, timeout_s=0) == []


async def test_a_cluster_is_copied_from_a_template(cluster: Cluster) -> None:
    with open_folder() as folder:
        template = create_cluster(
            folder / "template", free_port(), {"PG_BIN": cluster.binaries.bin.as_posix()}
        )
        (template.folder / "data" / "copied").touch()
        environ = os.environ | {INITDB_TEMPLATE: str(template.folder / "data")}

        copy = create_cluster(folder / "copy", free_port(), environ)

        assert (copy.folder / "data" / "copied").exists()
        with running(copy, folder / "postgres.log"):
            await create_owner(copy)
            async with connected(copy.url()) as connection:
                assert await connection.fetchval("SELECT 1") == 1


def test_server_ends_when_its_parent_is_killed() -> None:
    program = """if True:
        import os, sys, time
        from pathlib import Path
        from dev.postgres import create_cluster, running
        folder = Path(sys.argv[1])
        cluster = create_cluster(folder / "postgres", int(sys.argv[2]), os.environ, fsync=False)
        with running(cluster, folder / "postgres.log") as pid:
            print(pid, flush=True)
            time.sleep(60)
    """
    with open_folder() as folder:
        parent = subprocess.Popen(
            [sys.executable, "-c", program, str(folder), str(free_port())],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert parent.stdout is not None
        with parent.stdout:
            assert int(parent.stdout.readline()) > 0
        processes = processes_in(folder / "postgres" / "data")
        assert len(processes) > 1

        parent.kill()
        parent.wait()

        assert wait_until_gone(processes) == []


def test_published_command_restarts_the_server_after_sigkill() -> None:
    with open_folder() as folder:
        cluster = create_cluster(folder / "postgres", free_port(), os.environ, fsync=False)
        with running(cluster, folder / "first.log") as pid:
            os.kill(pid, signal.SIGKILL)

            with running(cluster, folder / "second.log") as second_pid:
                assert second_pid != pid


def test_second_server_on_the_same_folder_is_refused(cluster: Cluster) -> None:
    with pytest.raises(DevProblem, match="A Postgres is running in"):
        wait_for_orphans(cluster.folder / "data", timeout_s=0)


def test_taken_port_shows_the_log_of_postgres() -> None:
    with open_folder() as folder, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cluster = create_cluster(folder / "postgres", port, os.environ, fsync=False)

        with (
            pytest.raises(StartFailed, match="Address already in use"),
            running(cluster, folder / "postgres.log"),
        ):
            pytest.fail("it started")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another user")
def test_programs_are_copied_from_a_folder_closed_to_the_user() -> None:
    user = postgres_user()
    with open_folder() as folder:
        home = folder / "home"
        home.mkdir(mode=0o700)
        wheel = find_binaries(user, folder / "unused", os.environ).bin.parent.parent
        subprocess.run(["cp", "-r", wheel, wheel.with_name(f"{WHEEL}.libs"), home], check=True)

        found = find_binaries_in(home, user, folder / "programs")

        assert found.is_relative_to(folder / "programs")
        assert user.run([str(found / "postgres"), "--version"]).returncode == 0


def find_binaries_in(home: Path, user: OsUser, copies: Path) -> Path:
    """Look for the wheel in `home` only."""
    program = (
        "import sys; from pathlib import Path; from dev.postgres_user import OsUser;"
        "from dev.postgres_binaries import find_binaries; sys.path[:] = [sys.argv[1]];"
        "import os; user = OsUser(int(sys.argv[3]), int(sys.argv[4]), True);"
        "print(find_binaries(user, Path(sys.argv[2]), {'PATH': '/nowhere'}).bin)"
    )
    response = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            *(str(home), str(copies), str(user.uid), str(user.gid)),
        ],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return Path(response.stdout.strip())


def test_user_without_a_passwd_entry_is_a_dev_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)

    with pytest.raises(DevProblem, match="4242 has no entry in the user database"):
        postgres_user()


def test_pg_bin_without_postgres_is_an_error(
    tmp_path: Path,
) -> None:
    with pytest.raises(DevProblem, match="has no postgres and initdb"):
        find_binaries(postgres_user(), tmp_path / "programs", {"PG_BIN": str(tmp_path)})
