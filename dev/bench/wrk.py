"""wrk: many requests over kept connections, and what they cost the server."""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from dev.bench.machine import cpu_us, used_us
from dev.problems import DevProblem

_LATENCY = re.compile(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s)$", re.MULTILINE)
_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}

KEYS = """
local targets = {{ {targets} }}
local number = 0
request = function()
    number = number % #targets + 1
    return wrk.format(nil, targets[number])
end
"""
TRACED = """
local number = {seed}
request = function()
    number = number + 1
    wrk.headers["traceparent"] = string.format("00-%032x-%016x-01", number, number)
    return wrk.format()
end
"""
DISTINCT = """
local number = 0
request = function()
    number = number + 1
    wrk.headers["X-Unlike"] = "{run}-" .. number
    return wrk.format()
end
"""


@dataclass(frozen=True)
class Load:
    """What one run of wrk found."""

    request_count: int
    per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float
    """Of the server, per request."""


async def load(
    url: str,
    token: str,
    *,
    connections: int,
    seconds: int,
    pids: list[int],
    script: Path | None = None,
) -> Load:
    """Raises `DevProblem` if any response was not a 2xx."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    argv += ["-H", f"Authorization: Bearer {token}"]
    argv += ["-s", str(script)] if script is not None else []
    before = cpu_us(pids)
    process = await asyncio.create_subprocess_exec(
        *argv, url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await process.communicate())[0].decode()
    cost_us = used_us(before, cpu_us(pids))
    requests = re.search(r"(\d+) requests in", output)
    per_s = re.search(r"Requests/sec:\s+([\d.]+)", output)
    latency = {m[1]: float(m[2]) * _MICROSECONDS[m[3]] for m in _LATENCY.finditer(output)}
    if not requests or not per_s or "Non-2xx" in output or "Socket errors" in output:
        raise DevProblem(f"wrk against {url} found:\n{output}")
    count = int(requests[1])
    return Load(count, float(per_s[1]), latency["50"], latency["99"], cost_us / count)
