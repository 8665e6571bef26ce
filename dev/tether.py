"""Runs a command that ends when its parent does.

    python -I -S dev/tether.py SIGNAL PARENT_PID COMMAND [ARGUMENT ...]

Linux sends a process its *parent-death signal* when the parent ends, by SIGKILL too; exec keeps it.
Asking for it here, between fork and the command, needs neither Python code in a forked process
(`preexec_fn`, unsafe beside threads) nor anything in the command's own arguments or environment:
whoever starts the same command again without this file gets an ordinary, independent process.

The signal is tied to the parent's *thread* that forked: fork from one that lives as long as the
process. A change of user clears it (`dev.postmaster` sets it anew). Elsewhere than on Linux the
command simply runs.
"""

import ctypes
import os
import sys
from pathlib import Path

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2


def death_signal() -> int:
    """The signal this process gets when its parent ends; 0 is none."""
    if sys.platform != "linux":
        return 0
    signal_number = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(signal_number), 0, 0, 0)
    return signal_number.value


def set_death_signal(signal_number: int) -> None:
    """Ask for `signal_number` when the parent ends; 0 asks for none."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def tethered(argv: list[str], signal_number: int) -> list[str]:
    """`argv`, made to end with the process that calls this, by `signal_number`."""
    this_file = str(Path(__file__).resolve())
    return [sys.executable, "-I", "-S", this_file, str(int(signal_number)), str(os.getpid()), *argv]


def main(arguments: list[str]) -> None:
    """Become the command; end at once if the parent is already gone."""
    signal_number, parent_pid, *command = arguments
    set_death_signal(int(signal_number))
    # Asked only after the signal is armed, so that no moment is left uncovered.
    if os.getppid() == int(parent_pid):
        os.execvp(command[0], command)  # noqa: S606  (no shell is wanted)


if __name__ == "__main__":
    main(sys.argv[1:])
