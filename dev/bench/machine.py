"""The machine that the figures are from."""

import os
import platform
import re
import time
from pathlib import Path

import asyncpg

from dev.bench.figure import Quartiles

SYNC_COUNT = 200
SYNC_BYTES = 4096


async def described(connection: "asyncpg.Connection[asyncpg.Record]", folder: Path) -> list[str]:
    """One line each; no name of the machine, no path on it."""
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
    """What the disk takes to keep a little more of a file, in microseconds."""
    samples = []
    path = folder / "fdatasync"
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            began_at = time.perf_counter_ns()
            file.write(bytes(SYNC_BYTES))
            os.fdatasync(file.fileno())
            samples.append((time.perf_counter_ns() - began_at) / 1000)
    path.unlink()
    return samples
