"""A sidecar's calls of central for polls, its memory, and its time from start to ready."""

import asyncio
import re
import time
from urllib.request import urlopen

from dev.bench.bench_system import Bench, expect
from dev.bench.hot_reads import stored_result
from dev.bench.machine import cpu_us, rss_mib, used_us
from dev.bench.measurement import Goal, Measurement, Quartiles, Section
from dev.bench.wrk import DISTINCT, load
from dev.ports import HOST
from dev.problems import DevProblem
from dev.processes import ManagedProcess

SIDECAR_OFFSET = 33
POLLS = 1000
DISTINCT_PARTS = 4
DISTINCT_RUN_S = 1
"""One run of wrk: it takes a duration, and runs repeat until the number of requests is reached."""
START_TIMEOUT_S = 20.0
PROBE_PAUSE_S = 0.002
SETTLE_S = 2.0
"""How long a started sidecar takes for what it does only once."""
_CALLS = re.compile(
    r'^sidecar_upstream_requests_total\{call="(uris|latest|execution)".*\} (\S+)$', re.MULTILINE
)


async def footprint(bench: Bench, rounds: int, distinct: int) -> list[Section]:
    """`distinct`: the least number of distinct request heads that wrk sends; 0 without wrk."""
    sections = [await _central_calls(bench, rounds)]
    if distinct:
        sections.append(await _distinct(bench, distinct))
    return [*sections, await _start_and_memory(bench, rounds)]


async def _distinct(bench: Bench, count: int) -> Section:
    ready = bench.system.ready
    pid, token = ready["processes"]["sidecar"]["pid"], ready["users"]["owner"]["token"]
    script = bench.system.folder.path / "distinct.lua"
    target = await stored_result(bench)
    held, sent, runs = [rss_mib(pid)], 0, 0
    for part in range(1, DISTINCT_PARTS + 1):
        while sent < part * count / DISTINCT_PARTS:
            runs += 1
            script.write_text(DISTINCT.format(run=runs))
            found = await load(
                ready["sidecar"] + target,
                token,
                connections=16,
                seconds=DISTINCT_RUN_S,
                pids=[pid],
                script=script,
            )
            sent += found.request_count
        held.append(rss_mib(pid))
    measurement = Measurement(
        f"VmRSS before, and after each quarter of {sent:,} heads", "MiB", [held], 1
    )
    last_half = Quartiles.of([held[-1] - held[DISTINCT_PARTS // 2]])
    return Section(
        "Memory and distinct request heads",
        "wrk sends a header with another value in every request, so each takes the slow path, is"
        " stored in the response cache, and evicts another: "
        + ", ".join(f"{mib:.1f}" for mib in held)
        + " MiB.",
        [measurement],
        [Goal("growth of VmRSS over the second half", last_half, 2, "MiB", 1)],
    )


async def _central_calls(bench: Bench, rounds: int) -> Section:
    target = await stored_result(bench)
    request = bench.sidecar.request("GET", target)
    expect(await bench.sidecar.send(request), 200)
    samples = []
    for _ in range(rounds):
        before = await _read_calls(bench)
        for _ in range(POLLS):
            expect(await bench.sidecar.send(request), 200)
        samples.append([await _read_calls(bench) - before])
    measurement = Measurement(f"central calls for {POLLS} polls", "calls", samples)
    return Section(
        "Central calls for polls of a known result",
        "Reads the sidecar makes of central (`sidecar_upstream_requests_total`, other pools apart)"
        " within one access window.",
        [measurement],
        [Goal(f"central calls per {POLLS} polls", measurement.quartiles, 0, "calls", 0)],
    )


async def _read_calls(bench: Bench) -> float:
    url = f"{bench.system.ready['sidecar_ops']}/metrics"
    text = (await asyncio.to_thread(_fetched, url)).decode()
    return sum(float(value) for _, value in _CALLS.findall(text))


def _fetched(url: str) -> bytes:
    with urlopen(url) as response:
        body: bytes = response.read()
        return body


async def _start_and_memory(bench: Bench, rounds: int) -> Section:
    starts, used, idle = [], [], []
    for number in range(rounds):
        started_s, used_s, memory_mib = await _started(bench, number)
        starts.append([started_s])
        used.append([used_s])
        idle.append([memory_mib])
    loaded = rss_mib(bench.system.ready["processes"]["sidecar"]["pid"])
    ready_s = Measurement("start to ready", "s", starts, 2)
    used_s_figure = Measurement("start to ready, its own CPU", "s", used, 2)
    idle_mib = Measurement("VmRSS, idle", "MiB", idle, 1)
    loaded_mib = Measurement("VmRSS of the measured sidecar, after all above", "MiB", [[loaded]], 1)
    return Section(
        "Start and memory",
        "A second sidecar, started with an empty spool until `/readyz` is 200; its memory two"
        " seconds later. On a busy machine the wait is mostly for a core; its own CPU is about what"
        " it takes on a quiet one.",
        [ready_s, used_s_figure, idle_mib, loaded_mib],
        [
            Goal("start to ready", ready_s.quartiles, 0.5, "s", 2),
            Goal("VmRSS, idle", idle_mib.quartiles, 52, "MiB", 1),
            Goal("VmRSS under load", loaded_mib.quartiles, 96, "MiB", 1),
        ],
    )


async def _started(bench: Bench, number: int) -> tuple[float, float, float]:
    """Seconds until ready, those of them on a core, and MiB when idle."""
    system = bench.system
    description = system.ready["processes"]["sidecar"]
    port = system.ports.base + SIDECAR_OFFSET
    settings = {
        "SIDECAR_LISTEN": f"{HOST}:{port}",
        "SIDECAR_OPS_LISTEN": f"{HOST}:{port + 1}",
        "SIDECAR_SPOOL_DIR": str(system.folder.path / f"spool-{number}"),
        "SIDECAR_CENTRAL_URL": system.ready["central"],
    }
    started_at = time.perf_counter()
    sidecar = await ManagedProcess.start(
        system.folder, "bench-sidecar", description["argv"], settings
    )
    try:
        await _ready(port + 1, sidecar)
        started_s = time.perf_counter() - started_at
        used_s = used_us({}, cpu_us([sidecar.pid])) / 1e6
        await asyncio.sleep(SETTLE_S)
        return started_s, used_s, rss_mib(sidecar.pid)
    finally:
        await sidecar.terminate()


async def _ready(port: int, sidecar: ManagedProcess) -> None:
    give_up_at = time.perf_counter() + START_TIMEOUT_S
    while time.perf_counter() < give_up_at and not sidecar.has_ended:
        try:
            reader, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            await asyncio.sleep(PROBE_PAUSE_S)
            continue
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        status = await reader.readline()
        writer.close()
        if b" 200 " in status:
            return
        await asyncio.sleep(PROBE_PAUSE_S)
    raise DevProblem("The second sidecar did not become ready.")
