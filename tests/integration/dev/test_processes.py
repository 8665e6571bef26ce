"""A run's processes are found by their environment and end with the process that started them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dev.parent_death import with_death_signal
from dev.postgres_user import postgres_user, temporary_folder
from dev.processes import RunFolder, clean_up
from tests.databases import ROOT, open_folder
from tests.systems import is_alive, wait_until_gone

# Postgres handles SIGQUIT whatever it inherits; what a shell starts with `&` inherits it ignored.
SLEEP_CODE = """
import signal, time
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
print('up', flush=True)
time.sleep(60)
"""
SLEEP = [sys.executable, "-c", SLEEP_CODE]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path)


@contextmanager
def sleeping(env: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A process with this environment that has started."""
    with subprocess.Popen(SLEEP, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


def test_process_is_found_by_its_role_whoever_started_it(folder: RunFolder) -> None:
    with sleeping(folder.environment("sidecar", {}, os.environ)) as process:
        assert folder.pids("sidecar") == [process.pid]
        assert folder.pids() == [process.pid]
        assert folder.pids("side") == []
        assert folder.pids("central") == []


def test_callers_own_variables_are_not_passed_on(folder: RunFolder) -> None:
    environ = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "DEV_DATABASE_URL": "y"}

    env = folder.environment("sidecar", {"SIDECAR_LOG_LEVEL": "debug"}, environ)

    assert env == {
        "PATH": "/bin",
        "SIDECAR_LOG_LEVEL": "debug",
        "DEV_RUN": f"{folder.path}:sidecar",
    }


def test_folder_can_be_passed_through_but_not_listed(folder: RunFolder) -> None:
    assert folder.path.stat().st_mode & 0o777 == 0o711
    assert folder.spool.stat().st_mode & 0o777 == 0o700


def test_cleanup_ends_every_role_and_removes_the_folder(folder: RunFolder) -> None:
    environments = [folder.environment(role, {}, os.environ) for role in ("central", "postgres")]

    with sleeping(environments[0]) as central, sleeping(environments[1]) as postgres:
        clean_up(folder)

        assert (central.wait(1), postgres.wait(1)) == (-signal.SIGKILL, -signal.SIGQUIT)
    assert not folder.path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another user")
def test_temporary_folder_that_postgres_may_not_enter_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    assert temporary_folder(postgres_user()) == Path("/tmp")  # noqa: S108


def test_temporary_folder_whose_path_is_too_long_for_a_socket_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open_folder() as folder:
        long = folder / ("x" * 64)
        long.mkdir(mode=0o755)
        monkeypatch.setattr("tempfile.tempdir", str(long))

        assert temporary_folder(postgres_user()) == Path("/tmp")  # noqa: S108


def test_remove_ignores_a_folder_that_is_not_a_run_folder(tmp_path: Path) -> None:
    RunFolder(tmp_path).remove()

    assert tmp_path.exists()


def test_process_with_death_signal_ends_with_its_parent() -> None:
    program = (
        "import subprocess, sys, time; from dev.parent_death import with_death_signal;"
        "child = subprocess.Popen(with_death_signal(sys.argv[1:], 9));"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *SLEEP], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        assert starter.stdout.readline() == "up\n"
        assert is_alive(child)

        starter.kill()

    assert wait_until_gone([child]) == []


def test_command_does_not_start_if_its_parent_has_ended() -> None:
    not_the_parent = "1"
    command = with_death_signal([sys.executable, "-c", "print('started')"], signal.SIGKILL)
    command[command.index(str(os.getpid()))] = not_the_parent

    response = subprocess.run(command, check=True, capture_output=True, text=True)

    assert response.stdout == ""
