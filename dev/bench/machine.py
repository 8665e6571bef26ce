"""The machine that is measured on, and what processes use of it (from /proc)."""

import os
import platform
import re
import time
from contextlib import suppress
from pathlib import Path

import asyncpg

from dev.bench.measurement import Quartiles

SYNC_COUNT = 200
SYNC_BYTES = 4096


async def describe_machine(
    connection: "asyncpg.Connection[asyncpg.Record]", folder: Path
) -> list[str]:
    """One line for each fact; no name of the machine, no path on it."""
    shown = {
        name: await connection.fetchval("SELECT current_setting($1)", name)
        for name in ("server_version", "fsync", "synchronous_commit")
    }
    syncs = Quartiles.of(sync_us(folder, SYNC_COUNT))
    return [
        f"{os.cpu_count()} cores, {cpu_model()}, shared by clients, services and Postgres",
        f"Python {platform.python_version()}, {platform.system()}",
        f"Postgres {shown['server_version']}, fsync {shown['fsync']}",
        f"synchronous_commit {shown['synchronous_commit']}",
        f"fdatasync of {SYNC_BYTES} appended bytes, beside the spool: {syncs.text(0)} µs",
    ]


def cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or "CPU unknown"


def sync_us(folder: Path, count: int) -> list[float]:
    """Microseconds of each fdatasync after an append."""
    samples = []
    path = folder / "fdatasync"
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            started_at = time.perf_counter_ns()
            file.write(bytes(SYNC_BYTES))
            os.fdatasync(file.fileno())
            samples.append((time.perf_counter_ns() - started_at) / 1000)
    path.unlink()
    return samples


def cpu_us(pids: list[int]) -> dict[int, float]:
    """Microseconds of CPU of each process's live threads, as the scheduler counts them."""
    used = {}
    for pid in pids:
        with suppress(FileNotFoundError):  # it has ended
            threads = list(Path(f"/proc/{pid}/task").iterdir())
            clocks = [int((thread / "schedstat").read_text().split()[0]) for thread in threads]
            used[pid] = sum(clocks) / 1000
    return used


def used_us(before: dict[int, float], after: dict[int, float]) -> float:
    """The difference, for the processes that still run."""
    return sum(used - before.get(pid, 0.0) for pid, used in after.items())


def rss_mib(pid: int) -> float:
    """VmRSS."""
    return _memory_mib(pid, "VmRSS")


def peak_rss_mib(pid: int) -> float:
    """The peak of VmRSS (VmHWM)."""
    return _memory_mib(pid, "VmHWM")


def _memory_mib(pid: int, name: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def with_children(pid: int) -> list[int]:
    """The process and those it has started directly."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]
