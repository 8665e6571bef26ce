"""`python -m dev demo`: start the system, replay one workflow, print a table of measurements.

The same run is then repeated by direct SQL on the same database, as Texera's computing unit does it
today: both columns of the table are measured, none is estimated.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
from rich.console import Console
from rich.table import Table

from dev import metrics_scrape
from dev.computing_unit import RunReport, run_workflow
from dev.direct_sql import DirectSqlBackend
from dev.metadata_backend import CallFailed
from dev.problems import DevProblem, StartFailed
from dev.processes import tail
from dev.progress import progress_reporter
from dev.replay import EXIT_ERRORS, positive_seconds
from dev.run_plan import RunPlan, plan_run
from dev.sidecar_backend import SidecarBackend
from dev.signals import EXIT_INTERRUPTED, Interrupted, run_until_signal
from dev.system import CENTRAL_ROLE, Options, System
from dev.texera import SAMPLE_WORKFLOW
from dev.workflow_file import read_workflow

DIRECT_POLL_S = 0.05
"""The direct run is only counted: the same steps with shorter pauses."""

DEADLINE_S = 15.0
"""All of it runs on this machine: later responses are not expected."""


@dataclass(frozen=True)
class Measurements:
    """The demo's measurements. Statements are counted by pg_stat_statements."""

    workflow: str
    status: str | None
    calls: int
    errors: int
    waited_ms: float
    direct_waited_ms: float
    cache_reads: int
    cache_hits: int
    cache_pending: int
    writes: int
    writes_refused: int
    batches: int
    central_calls: int
    transactions: int
    statements: int
    direct_calls: int
    direct_statements: int
    direct_transactions: int


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    plan = plan_run(read_workflow(options.workflow))
    try:
        measured = asyncio.run(run_until_signal(_demo(options, plan)))
    except Interrupted:
        print("interrupted; all processes have ended", file=sys.stderr)
        return EXIT_INTERRUPTED
    except CallFailed as failed:
        raise DevProblem(f"The run could not go on: {failed}.") from failed
    if options.json:
        print(json.dumps(asdict(measured), indent=2))
    else:
        Console().print(table(measured))
    return EXIT_ERRORS if measured.errors else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dev demo", description=__doc__)
    parser.add_argument("--workflow", type=Path, default=SAMPLE_WORKFLOW, metavar="FILE")
    parser.add_argument("--poll-s", type=positive_seconds, default=1.0, metavar="N")
    parser.add_argument("--port-base", type=int, default=Options.port_base, metavar="N")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    return parser


async def _demo(options: argparse.Namespace, plan: RunPlan) -> Measurements:
    name = options.workflow.stem
    with progress_reporter(sys.stderr, name, silent=options.json) as reporter:
        reporter.event("starting Postgres, central and the sidecar")
        async with (
            System(Options(port_base=options.port_base)) as system,
            aiohttp.ClientSession() as http,
        ):
            ready = system.ready
            owner = ready["users"]["owner"]
            ops_urls = (ready["sidecar_ops"], ready["central_ops"])
            connection = await asyncpg.connect(ready["database"])
            try:
                before = [await metrics_scrape.scrape(http, url) for url in ops_urls]
                await metrics_scrape.reset_statements(connection)
                async with SidecarBackend(
                    ready["sidecar"], owner["token"], deadline_s=DEADLINE_S
                ) as backend:
                    running = run_workflow(ready, plan, backend, options.poll_s, reporter)
                    report = await _while_up(system, running)
                statements = await metrics_scrape.statements_of(connection, CENTRAL_ROLE)
                after = [await metrics_scrape.scrape(http, url) for url in ops_urls]
                reporter.event("the same run by direct SQL, to compare")
                await metrics_scrape.reset_statements(connection)
                async with DirectSqlBackend(ready["database"], owner["user_id"]) as direct:
                    direct_report = await run_workflow(ready, plan, direct, DIRECT_POLL_S)
                role = str(urlsplit(ready["database"]).username)
                direct_statements = await metrics_scrape.statements_of(connection, role)
            finally:
                await connection.close()

    def sidecar(metric: str, **labels: str) -> int:
        return metrics_scrape.total(after[0], metric, **labels) - metrics_scrape.total(
            before[0], metric, **labels
        )

    def central(metric: str, **labels: str) -> int:
        return metrics_scrape.total(after[1], metric, **labels) - metrics_scrape.total(
            before[1], metric, **labels
        )

    reads = central("central_requests_total", method="GET")
    return Measurements(
        workflow=name,
        status=report.status,
        calls=report.call_count,
        errors=len(report.errors),
        waited_ms=round(report.waited_s * 1000, 1),
        direct_waited_ms=round(direct_report.waited_s * 1000, 1),
        cache_reads=sidecar("sidecar_cache_requests_total"),
        cache_hits=sidecar("sidecar_cache_requests_total", result="hit"),
        cache_pending=sidecar("sidecar_cache_requests_total", result="pending"),
        writes=sidecar("sidecar_writes_total", state="durable"),
        writes_refused=sidecar("sidecar_writes_total", state="refused"),
        batches=sidecar("sidecar_batches_total", outcome="delivered"),
        central_calls=central("central_requests_total"),
        # Each read by central is one statement outside a transaction block: one transaction.
        transactions=central("central_transactions_total", outcome="committed") + reads,
        statements=statements,
        direct_calls=direct_report.call_count,
        direct_statements=direct_statements,
        # Each of the direct statements commits by itself.
        direct_transactions=direct_statements,
    )


async def _while_up(system: System, running: Coroutine[Any, Any, RunReport]) -> RunReport:
    """The run's report; `StartFailed` as soon as a process of the system ends."""
    run = asyncio.ensure_future(running)
    ends = {
        asyncio.ensure_future(process.process.wait()): process
        for process in system.processes.values()
    }
    try:
        await asyncio.wait({run, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if run.done():
            return await run
        ended = next(process for end, process in ends.items() if end.done())
        sentence = f"{ended.role} ended during the run (exit code {ended.process.returncode})."
        raise StartFailed(sentence, tail(ended.log))
    finally:
        for task in (run, *ends):
            task.cancel()
        await asyncio.gather(run, *ends, return_exceptions=True)


def table(measured: Measurements) -> Table:
    """The measurements beside those of direct SQL, with the source of each."""
    table = Table(title=f"{measured.workflow}: {measured.status}", caption=_summary(measured))
    table.add_column("")
    table.add_column("sidecar", justify="right")
    table.add_column("direct SQL", justify="right")
    table.add_column("counted by", style="dim")
    replay, sidecar, central = "the replay", "sidecar's /metrics", "central's /metrics"
    rows: list[tuple[str, object, object, str]] = [
        ("calls by the computing unit", measured.calls, measured.direct_calls, replay),
        ("  waited for them, ms", measured.waited_ms, measured.direct_waited_ms, replay),
        ("reads of results and consoles", measured.cache_reads, "", sidecar),
        ("  served from the cache alone", measured.cache_hits, "", sidecar),
        ("  with pending writes applied", measured.cache_pending, "", sidecar),
        ("writes made durable", measured.writes, "", sidecar),
        ("  refused", measured.writes_refused, "", sidecar),
        ("batches delivered", measured.batches, "", sidecar),
        ("calls of central", measured.central_calls, "", central),
        ("SQL transactions", measured.transactions, measured.direct_transactions, central),
        (
            "SQL statements, BEGIN to COMMIT",
            measured.statements,
            measured.direct_statements,
            "pg_stat_statements",
        ),
    ]
    for name, sidecar_value, direct, source in rows:
        table.add_row(name, str(sidecar_value), str(direct), source)
    return table


def _summary(measured: Measurements) -> str:
    transactions = measured.transactions / max(measured.direct_transactions, 1)
    statements = measured.statements / max(measured.direct_statements, 1)
    return (
        f"{transactions:.0%} of the transactions and {statements:.0%} of the statements that "
        "the same run needs by direct SQL, on this database, just now."
    )
