"""The embedded Postgres: it starts, it stops, and nothing of it stays."""

import os
import pwd
import signal
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from dev.account import Account, postgres_account
from dev.binaries import WHEEL, find_binaries
from dev.postgres import Cluster, create_cluster, create_owner, running
from dev.postmaster import processes_in, wait_for_orphans
from dev.problems import DevProblem, StartFailed
from tests.databases import ROOT, connected, free_port, open_folder
from tests.systems import wait_until_gone


async def test_the_owner_is_no_superuser_and_time_is_utc(cluster: Cluster) -> None:
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


async def test_statements_are_counted_for_the_owner(cluster: Cluster) -> None:
    async with connected(cluster.url()) as connection:
        await connection.execute("SELECT pg_stat_statements_reset()")
        await connection.execute("SELECT 1 AS counted")

        calls = await connection.fetchval(
            "SELECT calls FROM pg_stat_statements WHERE query LIKE 'SELECT $1 AS counted'"
        )

    assert calls == 1


async def test_tcp_asks_for_the_password(cluster: Cluster) -> None:
    wrong = cluster.url().replace(cluster.owner_password, "wrong")

    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(wrong)


async def test_it_stops_with_the_block_and_leaves_no_process() -> None:
    with open_folder() as folder:
        cluster = create_cluster(folder / "postgres", free_port(), os.environ)
        with running(cluster, folder / "postgres.log") as pid:
            await create_owner(cluster)
            started = processes_in(cluster.folder / "data")
            assert pid in started

        assert wait_until_gone(started, timeout_s=0) == []


def test_it_ends_when_its_starter_is_killed() -> None:
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
        starter = subprocess.Popen(
            [sys.executable, "-c", program, str(folder), str(free_port())],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert starter.stdout is not None
        with starter.stdout:
            assert int(starter.stdout.readline()) > 0
        processes = processes_in(folder / "postgres" / "data")
        assert len(processes) > 1

        starter.kill()
        starter.wait()

        assert wait_until_gone(processes) == []


def test_the_published_command_starts_it_again_after_sigkill() -> None:
    with open_folder() as folder:
        cluster = create_cluster(folder / "postgres", free_port(), os.environ, fsync=False)
        with running(cluster, folder / "first.log") as pid:
            os.kill(pid, signal.SIGKILL)

            with running(cluster, folder / "second.log") as second_pid:
                assert second_pid != pid


def test_a_second_server_on_the_same_folder_is_refused(cluster: Cluster) -> None:
    with pytest.raises(DevProblem, match="A Postgres is running in"):
        wait_for_orphans(cluster.folder / "data", timeout_s=0)


def test_a_taken_port_shows_postgres_own_words() -> None:
    with open_folder() as folder, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cluster = create_cluster(folder / "postgres", port, os.environ, fsync=False)

        with (
            pytest.raises(StartFailed, match="Address already in use"),
            running(cluster, folder / "postgres.log"),
        ):
            pytest.fail("it started")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root lends Postgres another user")
def test_the_programs_are_copied_from_where_nobody_may_go() -> None:
    account = postgres_account()
    with open_folder() as folder:
        home = folder / "home"
        home.mkdir(mode=0o700)
        wheel = find_binaries(account, folder / "unused", os.environ).bin.parent.parent
        subprocess.run(["cp", "-r", wheel, wheel.with_name(f"{WHEEL}.libs"), home], check=True)

        found = find_binaries_in(home, account, folder / "programs")

        assert found.is_relative_to(folder / "programs")
        assert account.run([str(found / "postgres"), "--version"]).returncode == 0


def find_binaries_in(home: Path, account: Account, copies: Path) -> Path:
    """Look for the wheel in `home` only."""
    program = (
        "import sys; from pathlib import Path; from dev.account import Account;"
        "from dev.binaries import find_binaries; sys.path[:] = [sys.argv[1]];"
        "import os; account = Account(int(sys.argv[3]), int(sys.argv[4]), True);"
        "print(find_binaries(account, Path(sys.argv[2]), {'PATH': '/nowhere'}).bin)"
    )
    answer = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            *(str(home), str(copies), str(account.uid), str(account.gid)),
        ],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return Path(answer.stdout.strip())


def test_a_user_without_an_entry_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)

    with pytest.raises(DevProblem, match="4242 has no entry in the user database"):
        postgres_account()


def test_a_named_folder_that_has_no_postgres_is_an_error_and_not_passed_over(
    tmp_path: Path,
) -> None:
    with pytest.raises(DevProblem, match="has no postgres and initdb"):
        find_binaries(postgres_account(), tmp_path / "programs", {"PG_BIN": str(tmp_path)})
