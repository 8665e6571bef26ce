"""`python -m dev postgres --run-dir DIR`: becomes the Postgres server of a cluster folder.

The process id stays the same, so whoever starts this has the server's own id, and the same command
starts the server again after it was killed. Root becomes the account that owns the cluster first.
"""

import argparse
import os
from pathlib import Path

from dev.account import postgres_account
from dev.polling import wait_until
from dev.problems import DevProblem

ORPHAN_TIMEOUT_S = 10.0  # a killed server's sessions notice within milliseconds, unless stopped


def processes_in(folder: Path) -> list[int]:
    """The processes whose working folder is `folder`. Every process of a server is in its data."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == folder:
                pids.append(int(entry.name))
        except OSError:
            continue  # it has ended, or is somebody else's
    return pids


def wait_for_orphans(data: Path, timeout_s: float = ORPHAN_TIMEOUT_S) -> None:
    """Wait until no session of a killed server is left: no new server starts beside one."""
    if not wait_until(lambda: not processes_in(data), timeout_s):
        raise DevProblem(f"A Postgres is running in {data} already (process {processes_in(data)}).")


def remove_locks(folder: Path) -> None:
    """Remove the lock files of a killed server; call it only when no process of it is left.

    Postgres itself asks whether the process id in them exists, which is so for a process that
    nobody reaped and for one that got the same id.
    """
    if Path("/proc/self").exists():  # elsewhere wait_for_orphans has seen nothing
        for lock in (folder / "data" / "postmaster.pid", *folder.glob(".s.PGSQL.*.lock")):
            lock.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    """Never returns: exec replaces this process."""
    parser = argparse.ArgumentParser(prog="python -m dev postgres", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="the cluster's folder")
    folder = parser.parse_args(arguments).run_dir.resolve()
    if not (folder / "data").is_dir():
        raise DevProblem(f"{folder} holds no Postgres cluster.")
    wait_for_orphans(folder / "data")
    remove_locks(folder)
    program = (folder / "bin" / "postgres").resolve()
    os.chdir(folder)
    postgres_account().become()
    os.execv(program, [str(program), "-D", str(folder / "data")])  # noqa: S606
