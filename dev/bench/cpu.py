"""What processes have used and hold, from /proc."""

import re
from contextlib import suppress
from pathlib import Path


def cpu_us(pids: list[int]) -> dict[int, float]:
    """Microseconds that each process's threads have run, by the scheduler's own count."""
    used = {}
    for pid in pids:
        with suppress(FileNotFoundError):  # it has ended
            threads = list(Path(f"/proc/{pid}/task").iterdir())
            clocks = [int((thread / "schedstat").read_text().split()[0]) for thread in threads]
            used[pid] = sum(clocks) / 1000
    return used


def used_us(before: dict[int, float], after: dict[int, float]) -> float:
    """What those ran that are still there."""
    return sum(used - before.get(pid, 0.0) for pid, used in after.items())


def rss_mib(pid: int) -> float:
    """VmRSS."""
    return _memory_mib(pid, "VmRSS")


def highest_rss_mib(pid: int) -> float:
    """The most that VmRSS has ever been."""
    return _memory_mib(pid, "VmHWM")


def _memory_mib(pid: int, name: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def with_children(pid: int) -> list[int]:
    """The process and those it has started directly."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]
