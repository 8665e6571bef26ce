"""What the metrics cost: `python -m tests.metrics_cost`.

Two sidecars of one system, one with its metrics and one whose metrics do nothing, take turns:
a cached read and a durable write, each by one client on one connection. Medians of the rounds.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dev.bench.machine import cpu_us
from dev.bench.raw_http_client import RawHttpClient
from dev.polling import accepts_connections
from dev.processes import ManagedProcess, RunFolder
from kit.http import metrics
from sidecar.__main__ import main as run_sidecar
from sidecar.server import response_cache
from tests.databases import free_port, open_folder
from tests.systems import Up, running_system

ROUNDS = 300
READS, WRITES = 200, 20
WITHOUT = "serve-without-metrics"


def switch_off() -> None:
    """The same sidecar, whose counters and histograms do nothing."""

    def nothing(*_: Any, **__: Any) -> None:
        pass

    metrics.Counter.inc = nothing  # type: ignore[method-assign]
    metrics.Histogram.observe = nothing  # type: ignore[method-assign]
    metrics.RequestMetrics.record = nothing  # type: ignore[method-assign]
    response_cache.ResponseCache._render = render  # type: ignore[method-assign]


def render(self: Any, cached: Any, request_id: bytes, arrived_at: float) -> bytes:
    """`ResponseCache._render` without the three lines of metrics."""
    headers = self._headers
    response: bytes = cached.head + headers.render(headers.request_id(request_id)) + cached.body
    now = self._monotonic()
    if now - cached.touched_at > response_cache.TOUCH_PERIOD_S:
        cached.touched_at = now
        cached.validity.touch()
    return response


async def measure(up: Up, folder: Path) -> None:
    owner, published = up.ready["users"]["owner"]["token"], up.published("sidecar")
    port = free_port()
    spool = folder / "spool-without"
    spool.mkdir()
    (folder / "logs").mkdir()
    other = await ManagedProcess.start(
        RunFolder(folder),
        "sidecar-without",
        [sys.executable, "-m", "tests.metrics_cost", WITHOUT],
        {
            **published["env"],
            "SIDECAR_LISTEN": f"127.0.0.1:{port}",
            "SIDECAR_OPS_LISTEN": f"127.0.0.1:{free_port()}",
            "SIDECAR_SPOOL_DIR": str(spool),
        },
    )
    try:
        await other.wait_until(accepts_connections(port))
        sidecars = {
            "with": (up.ready["sidecar"], published["pid"]),
            "without": (f"http://127.0.0.1:{port}", other.pid),
        }
        clients, paths = {}, {}
        for name, (url, _) in sidecars.items():
            client = clients[name] = await RawHttpClient(url, owner).__aenter__()
            new = {
                "workflow_id": up.ready["workflow_id"],
                "computing_unit_id": up.ready["computing_unit_id"],
                "environment_version": "cost",
            }
            created = await client.send(client.request("POST", "/v1/executions", new))
            paths[name] = f"/v1/executions/{created.json()['execution_id']}"

        def read(name: str) -> bytes:
            return clients[name].request("GET", f"{paths[name]}/uris")

        def write(name: str) -> bytes:
            return clients[name].request("PATCH", paths[name], {"name": f"n{time.monotonic_ns()}"})

        for what, request, count in (("read", read, READS), ("write", write, WRITES)):
            await compare(what, request, count, clients, {n: s[1] for n, s in sidecars.items()})
    finally:
        await other.terminate()


async def compare(
    what: str,
    request: Callable[[str], bytes],
    count: int,
    clients: dict[str, RawHttpClient],
    pids: dict[str, int],
) -> None:
    taken: dict[str, list[float]] = {name: [] for name in clients}
    used: dict[str, list[float]] = {name: [] for name in clients}
    for round_number in range(ROUNDS):
        for name in sorted(clients, reverse=bool(round_number % 2)):
            samples = []
            before = cpu_us([pids[name]])[pids[name]]
            for _ in range(count):
                data = request(name)
                started_at = time.perf_counter_ns()
                response = await clients[name].send(data)
                samples.append((time.perf_counter_ns() - started_at) / 1000)
                assert response.status in {200, 202}, response
            used[name].append((cpu_us([pids[name]])[pids[name]] - before) / count)
            taken[name].append(statistics.median(samples))
    for unit, figures in (("p50", taken), ("CPU", used)):
        ratios = [a / b for a, b in zip(figures["with"], figures["without"], strict=True)]
        medians = {name: statistics.median(values) for name, values in figures.items()}
        sys.stdout.write(
            f"{what}, {unit}: with {medians['with']:.1f} µs, without {medians['without']:.1f} µs,"
            f" median ratio {statistics.median(ratios):.3f}\n"
        )


if __name__ == "__main__":
    if sys.argv[1:] == [WITHOUT]:
        switch_off()
        sys.argv[1:] = ["serve"]
        sys.exit(run_sidecar())
    with open_folder() as run_folder, running_system(run_folder) as running:
        asyncio.run(measure(running, run_folder))
