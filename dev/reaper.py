"""`python -m dev reaper --run-dir DIR`: ends what a killed `dev up` left, and removes its folder.

It waits for its standard input to end: the other end of that pipe is held by `dev up` alone, so it
ends when `dev up` does, by SIGKILL too. After an orderly end nothing is left for it to do. The
parent-death signal (dev.tether) is quicker, but does not reach a process that somebody else started
anew, and removes no folder.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from dev.polling import wait_until
from dev.run_folder import RunFolder

IMMEDIATE_SHUTDOWN_TIMEOUT_S = 3.0  # for Postgres to take its sessions along


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev reaper", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="the run's folder")
    folder = RunFolder(parser.parse_args(arguments).run_dir)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # its end is the end of its input
    while os.read(sys.stdin.fileno(), 1):
        pass
    reap(folder)
    return 0


def reap(folder: RunFolder) -> None:
    """End every process of the run, Postgres by an immediate shutdown, and remove the folder."""
    for role in ("sidecar", "central", "latency"):
        folder.signal(signal.SIGKILL, role)
    folder.signal(signal.SIGQUIT, "postgres")
    wait_until(lambda: not folder.pids(), IMMEDIATE_SHUTDOWN_TIMEOUT_S)
    folder.signal(signal.SIGKILL)
    folder.remove()
