"""The cached read: CPU per request, latency and throughput, by wrk.

Beside nginx's, and by a run's token beside a user's.
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from cu_metadata_client import calls
from cu_metadata_client.aio import AsyncClient
from dev.bench.bench_system import Bench, expect
from dev.bench.measurement import Goal, Measurement, Section, Variant, interleaved
from dev.bench.nginx import nginx_before
from dev.bench.raw_http_client import RawHttpClient
from dev.bench.wrk import KEYS, TRACED, Load, load
from dev.vfs_uri import global_port_id, result_uri

OPERATOR = "CSVFileScan-operator-bench"
NGINX_OFFSET = 31
KEY_COUNT = 64
CONNECTIONS = 16
CPU_GOAL, TRACED_GOAL = 1.0, 1.5
RUN_TOKEN_GOAL = 1.1
"""The same path: the rest is the noise of a shared machine."""


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a server, and the token that it is called with."""

    name: str
    url: str
    pids: list[int]
    token: str


@dataclass(frozen=True)
class Traffic:
    """One kind of load, the same for both sides."""

    name: str
    connections: int
    script: str | None
    cpu_goal: float


async def stored_result(bench: Bench, execution_id: int | None = None) -> str:
    """The path and query of a result that the sidecar and central know, by default a new run's."""
    if execution_id is None:
        execution_id = await bench.new_execution()
    port = global_port_id(OPERATOR, 0)
    uri = result_uri(bench.system.ready["workflow_id"], execution_id, port)
    path = f"/v1/executions/{execution_id}/ports/{quote(port, safe='(),=')}"
    client = bench.sidecar
    request = client.request("PUT", path, {"result_uri": uri}, "Prefer: wait=5\r\n")
    expect(await client.send(request), 200)
    return f"/v1/executions/{execution_id}/result-uri?operator_id={OPERATOR}&port_id=0"


async def hot_reads(bench: Bench, rounds: int, seconds: int) -> list[Section]:
    """A section for each kind of traffic."""
    ready = bench.system.ready
    token = ready["users"]["owner"]["token"]
    targets = [await stored_result(bench) for _ in range(KEY_COUNT)]
    folder = bench.system.folder
    central = urlsplit(ready["central"]).netloc
    port = bench.system.ports.base + NGINX_OFFSET
    keys = KEYS.format(targets=", ".join(f'"{target}"' for target in targets))
    traffics = [
        Traffic("One key, 1 connection", 1, None, CPU_GOAL),
        Traffic(f"One key, {CONNECTIONS} connections", CONNECTIONS, None, CPU_GOAL),
        Traffic(
            f"{KEY_COUNT} keys in turn, {CONNECTIONS} connections", CONNECTIONS, keys, CPU_GOAL
        ),
        Traffic(
            f"A fresh `traceparent` each time, {CONNECTIONS} connections",
            CONNECTIONS,
            TRACED.format(seed=1),
            TRACED_GOAL,
        ),
    ]
    sidecar_pids = [ready["processes"]["sidecar"]["pid"]]
    async with nginx_before(central, port, folder) as nginx:
        sides = (
            Side("the sidecar", ready["sidecar"], sidecar_pids, token),
            Side("nginx proxy_cache", nginx.url, nginx.pids, token),
        )
        for side in sides:
            await _warm(side, targets)
        sections = [
            await _beside_nginx(traffic, sides, targets[0], folder.path, rounds, seconds)
            for traffic in traffics
        ]
    return [*sections, await _by_run_token(bench, rounds, seconds)]


async def _by_run_token(bench: Bench, rounds: int, seconds: int) -> Section:
    ready = bench.system.ready
    new = calls.create_execution(
        ready["workflow_id"], ready["computing_unit_id"], "bench", run_token=True
    )
    user_token = ready["users"]["owner"]["token"]
    async with AsyncClient(ready["sidecar"], token=user_token) as client:
        created = await client.send(new)
    target = await stored_result(bench, created.execution_id)
    pids = [ready["processes"]["sidecar"]["pid"]]
    sides = (
        Side("by the run's token", ready["sidecar"], pids, created.run_token or ""),
        Side("by the user's token", ready["sidecar"], pids, user_token),
    )
    for side in sides:
        await _warm(side, [target])
    traffic = Traffic("", CONNECTIONS, None, RUN_TOKEN_GOAL)
    measurements = await _measured(
        traffic, sides, target, bench.system.folder.path, rounds, seconds
    )
    cpu = measurements[0].ratios_to(measurements[1])
    return Section(
        "Cached read by a run's token",
        f"wrk for {seconds} s a round and token, {CONNECTIONS} connections, the same target.",
        measurements,
        [Goal("by a run's token: CPU / by a user's", cpu, RUN_TOKEN_GOAL, "x", 2)],
    )


async def _warm(side: Side, targets: list[str]) -> None:
    async with RawHttpClient(side.url, side.token) as client:
        for target in targets:
            for _ in range(3):
                response = expect(await client.send(client.request("GET", target)), 200)
            assert b"x-cache: hit" in response.head.lower(), response.head


async def _measured(
    traffic: Traffic,
    sides: tuple[Side, Side],
    target: str,
    folder: Path,
    rounds: int,
    seconds: int,
) -> list[Measurement]:
    """Both sides' CPU, p50, p99 and throughput, in this order; the first side's first."""
    script = None
    if traffic.script is not None:
        script = folder / "wrk.lua"
        script.write_text(traffic.script)
    loads: dict[str, list[Load]] = {side.name: [] for side in sides}

    def variant(side: Side) -> Variant:
        async def run() -> list[float]:
            found = await load(
                side.url + target,
                side.token,
                connections=traffic.connections,
                seconds=seconds,
                pids=side.pids,
                script=script,
            )
            loads[side.name].append(found)
            return [found.cpu_us]

        return run

    await interleaved([variant(side) for side in sides], rounds)

    def measurement(side: Side, what: str, unit: str, digits: int = 1) -> Measurement:
        names = {"cpu_us": "CPU per request", "p50_us": "p50", "p99_us": "p99", "per_s": "requests"}
        samples = [[float(getattr(found, what))] for found in loads[side.name]]
        return Measurement(f"{side.name}: {names[what]}", unit, samples, digits)

    return [
        measurement(side, what, unit, digits)
        for what, unit, digits in (
            ("cpu_us", "µs", 1),
            ("p50_us", "µs", 0),
            ("p99_us", "µs", 0),
            ("per_s", "per second", 0),
        )
        for side in sides
    ]


async def _beside_nginx(
    traffic: Traffic,
    sides: tuple[Side, Side],
    target: str,
    folder: Path,
    rounds: int,
    seconds: int,
) -> Section:
    measurements = await _measured(traffic, sides, target, folder, rounds, seconds)
    cpu_mine, cpu_theirs, p50_mine, p50_theirs, _, _, per_s_mine, per_s_theirs = measurements
    goals = [
        Goal(
            f"{traffic.name}: CPU / nginx", cpu_mine.ratios_to(cpu_theirs), traffic.cpu_goal, "x", 2
        )
    ]
    if traffic.script is None:
        p50, slower = p50_mine.ratios_to(p50_theirs), per_s_theirs.ratios_to(per_s_mine)
        goals.append(Goal(f"{traffic.name}: p50 / nginx", p50, 1.0, "x", 2))
        goals.append(Goal(f"{traffic.name}: nginx's throughput / ours", slower, 1.0, "x", 2))
    return Section(
        f"Cached read beside nginx: {traffic.name[0].lower()}{traffic.name[1:]}",
        f"wrk for {seconds} s a round and side, keep-alive; `GET …/result-uri` of a stored result."
        " nginx: one worker, proxy_cache before central, keyed on URI and Authorization. CPU is the"
        " server's own, by the scheduler's count.",
        measurements,
        goals,
    )
