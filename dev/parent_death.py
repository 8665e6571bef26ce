"""Runs a command that ends when its parent does.

    python -I -S dev/parent_death.py SIGNAL PARENT_PID COMMAND [ARGUMENT ...]

Linux sends a process its *parent-death signal* when the parent ends, also by SIGKILL; exec keeps
it. Setting it here, between fork and the command, needs no Python code in a forked process
(`preexec_fn` is unsafe beside threads) and nothing in the command's arguments or environment.

The signal is tied to the parent's *thread* that forked: fork from one that lives as long as the
process. A change of user clears it. On other systems than Linux the command simply runs.
"""

import ctypes
import os
import sys
from pathlib import Path

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2


def death_signal() -> int:
    """The parent-death signal of this process; 0 is none."""
    if sys.platform != "linux":
        return 0
    signal_number = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(signal_number), 0, 0, 0)
    return signal_number.value


def set_death_signal(signal_number: int) -> None:
    """Set the parent-death signal of this process; 0 removes it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def with_death_signal(argv: list[str], signal_number: int) -> list[str]:
    """`argv`, changed to end by `signal_number` when the calling process ends."""
    this_file = str(Path(__file__).resolve())
    return [sys.executable, "-I", "-S", this_file, str(int(signal_number)), str(os.getpid()), *argv]


def main(arguments: list[str]) -> None:
    """Become the command; end at once if the parent has ended already."""
    signal_number, parent_pid, *command = arguments
    set_death_signal(int(signal_number))
    # Checked after the signal is set, so that a parent that ends in between is noticed.
    if os.getppid() == int(parent_pid):
        os.execvp(command[0], command)  # noqa: S606  (no shell is wanted)


if __name__ == "__main__":
    main(sys.argv[1:])
