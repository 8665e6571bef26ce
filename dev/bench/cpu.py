"""What processes have used and hold, from /proc."""

import re
from pathlib import Path


def cpu_us(pids: list[int]) -> float:
    """Microseconds that the processes' threads have run, by the scheduler's own count."""
    total_ns = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total_ns += int((thread / "schedstat").read_text().split()[0])
    return total_ns / 1000


def rss_mib(pid: int) -> float:
    """VmRSS."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def with_children(pid: int) -> list[int]:
    """The process and those it has started directly."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]
