"""Whole runs, replayed through the sidecar and by direct SQL."""

from urllib.parse import urlsplit

from dev import metrics_scrape
from dev.bench.bench_system import Bench
from dev.bench.delayed_db import RTT_MS
from dev.bench.measurement import Goal, Measurement, Section, interleaved
from dev.computing_unit import RunReport, run_workflow
from dev.direct_sql import DirectSqlBackend
from dev.metadata_backend import MetadataBackend
from dev.ports import HOST
from dev.postgres import with_address
from dev.problems import DevProblem
from dev.ready import Ready
from dev.run_plan import RunPlan
from dev.sidecar_backend import SidecarBackend
from dev.system import CENTRAL_ROLE, Options, System

DELAYED_SYSTEM_OFFSET = 60


async def replayed_run(
    bench: Bench, rounds: int, plan: RunPlan, name: str, poll_s: float
) -> Section:
    ready = bench.system.ready
    owner = ready["users"]["owner"]
    role = str(urlsplit(ready["database"]).username)

    async def statements(backend: MetadataBackend, by: str) -> list[float]:
        await metrics_scrape.reset_statements(bench.direct)
        await replay(ready, plan, backend, poll_s)
        return [float(await metrics_scrape.statements_of(bench.direct, by))]

    async def by_sql() -> list[float]:
        async with DirectSqlBackend(ready["database"], owner["user_id"]) as direct:
            return await statements(direct, role)

    taken = await interleaved([lambda: statements(bench.backend, CENTRAL_ROLE), by_sql], rounds)
    sidecar = Measurement("through the sidecar (central's role)", "statements", taken[0])
    direct = Measurement("direct SQL", "statements", taken[1])
    return Section(
        "SQL statements of a replayed run",
        f"`{name}` with a poll every {poll_s:g} s, counted by "
        "pg_stat_statements; BEGIN and COMMIT count.",
        [sidecar, direct],
        [Goal("statements / direct SQL", sidecar.ratios_to(direct), 0.1, "x", 3)],
    )


async def delayed_run(
    port_base: int, rounds: int, plan: RunPlan, name: str, poll_s: float
) -> Section:
    """A system of its own, with a round trip before central and one before Postgres."""
    options = Options(port_base=port_base + DELAYED_SYSTEM_OFFSET, rtt_ms=RTT_MS)
    async with System(options) as system:
        ready = system.ready
        owner = ready["users"]["owner"]
        delayed_url = with_address(ready["database"], HOST, system.ports.delayed_postgres)

        async def by_sidecar() -> list[float]:
            async with SidecarBackend(ready["sidecar"], owner["token"]) as sidecar:
                return [(await replay(ready, plan, sidecar, poll_s)).waited_s * 1000]

        async def by_sql() -> list[float]:
            async with DirectSqlBackend(delayed_url, owner["user_id"]) as direct:
                return [(await replay(ready, plan, direct, poll_s)).waited_s * 1000]

        taken = await interleaved([by_sidecar, by_sql], rounds)
    sidecar = Measurement("through the sidecar", "ms", taken[0])
    direct = Measurement("direct SQL", "ms", taken[1])
    return Section(
        "What a replayed run waits for metadata",
        f"`{name}` with a poll every {poll_s:g} s; all its calls together, with {RTT_MS} ms of"
        " round trip between sidecar and central, between central and Postgres, and between direct"
        " SQL and Postgres.",
        [sidecar, direct],
        [Goal(f"waited / direct SQL {RTT_MS} ms away", sidecar.ratios_to(direct), 0.1, "x", 3)],
    )


async def replay(ready: Ready, plan: RunPlan, backend: MetadataBackend, poll_s: float) -> RunReport:
    """One run in the ready system. Raises `DevProblem` if anything in it failed."""
    report = await run_workflow(ready, plan, backend, poll_s)
    if report.errors:
        raise DevProblem(f"The replayed run had errors: {report.errors[0]}")
    return report
