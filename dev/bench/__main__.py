"""`python -m dev.bench`: measure on one fresh system, and write docs/benchmarks.md.

With --quick only a few calls are made and nothing is written, as a test. nginx and wrk, which the
read measurements need, are installed by `dev/bench/install.sh` where possible.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from dev.bench.bench_system import Bench, bench_of
from dev.bench.footprint import footprint
from dev.bench.full_spool import full_spool
from dev.bench.hot_reads import hot_reads
from dev.bench.load import backlog, writers
from dev.bench.machine import describe_machine
from dev.bench.measurement import Section
from dev.bench.nginx import has_tools
from dev.bench.report import Report, plot
from dev.bench.runs import delayed_run, replayed_run
from dev.bench.single_writes import committed_write, durable_write
from dev.bench.sql_reads import sql_reads
from dev.problems import DevProblem
from dev.processes import ROOT
from dev.run_plan import RunPlan, plan_run
from dev.system import Options, System
from dev.workflow_file import read_workflow

REPORT_FILE = ROOT / "docs" / "benchmarks.md"
PLOT_FILE = REPORT_FILE.with_suffix(".svg")
MOVIES = ROOT.parent / "shared" / "workflows" / "movies_exploration.json"
WEATHER = ROOT / "dev" / "workflows" / "weather_stations.json"
PORT_BASE = 21000
POLL_S = 3.0


@dataclass(frozen=True)
class Counts:
    """How many rounds, and calls per round and variant."""

    rounds: int
    reads: int
    writes: int
    committed: int
    runs: int
    load: int
    backlog: int
    full_spool: int
    wrk_s: int
    distinct: int

    def sentence(self) -> str:
        return (
            f"{self.rounds} rounds; per round and variant {self.reads} reads,"
            f" {self.wrk_s} s of wrk, {self.writes} writes,"
            f" {self.committed} committed writes, {self.load} writes by many writers, a backlog of"
            f" {self.backlog}; {self.runs} runs replayed for each variant"
        )


FULL = Counts(
    rounds=7,
    reads=400,
    writes=60,
    committed=10,
    runs=1,
    load=2_000,
    backlog=8_000,
    full_spool=1_000_000,
    wrk_s=3,
    distinct=1_000_000,
)
QUICK = Counts(
    rounds=1,
    reads=50,
    writes=20,
    committed=5,
    runs=1,
    load=100,
    backlog=200,
    full_spool=320,
    wrk_s=1,
    distinct=20_000,
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few calls; print only")
    parser.add_argument("--only", choices=("reads", "writes"), help="some of it; print only")
    parser.add_argument("--port-base", type=int, default=PORT_BASE, metavar="N")
    options = parser.parse_args(arguments)
    command = " ".join(["python -m dev.bench", *arguments])
    counts = QUICK if options.quick else FULL
    try:
        report = asyncio.run(measured(command, counts, options.port_base, options.only))
    except DevProblem as problem:
        print(f"dev.bench: {problem}", file=sys.stderr)
        return 1
    print(report.text(), end="")
    if not options.quick and options.only is None:
        REPORT_FILE.write_text(report.text())
        PLOT_FILE.write_text(plot(report.goals))
    return 0


LIMITS = (
    "SIDECAR_LIMIT_WRITES_PER_S",
    "SIDECAR_LIMIT_WRITE_BYTES_PER_S",
    "CENTRAL_LIMIT_USER_CALLS_PER_S",
    "CENTRAL_LIMIT_USER_BYTES_PER_S",
    "CENTRAL_LIMIT_SOURCE_CALLS_PER_S",
    "CENTRAL_LIMIT_SOURCE_BYTES_PER_S",
)


async def measured(command: str, counts: Counts, port_base: int, only: str | None) -> Report:
    """The report of one run."""
    workflow = MOVIES if MOVIES.exists() else WEATHER
    plan = plan_run(read_workflow(workflow))
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    # The services' capacity is measured, not the limits of one user.
    unlimited = dict.fromkeys(LIMITS, "0")
    options = Options(port_base=port_base, settings=unlimited)
    async with System(options) as system, bench_of(system) as bench:
        machine = await describe_machine(bench.direct, system.folder.path)
        sections = []
        for measurement in _measurements(bench, counts, plan, workflow.name, only):
            found = await measurement
            sections += found if isinstance(found, list) else [found]
            print(f"measured: {sections[-1].title}", file=sys.stderr)
    return Report(command, date, machine, counts.sentence(), sections)


def _measurements(
    bench: Bench, counts: Counts, plan: RunPlan, name: str, only: str | None
) -> Iterator[Awaitable[Section | list[Section]]]:
    """One coroutine per measurement. Reads come first: writes leave the disk busy."""
    if only in {None, "reads"}:
        yield sql_reads(bench, counts.rounds, counts.reads)
        tools = has_tools(install=counts is FULL)
        if tools:
            yield hot_reads(bench, counts.rounds, counts.wrk_s)
        else:
            print("not measured: nginx and wrk are missing", file=sys.stderr)
        yield footprint(bench, counts.rounds, counts.distinct if tools else 0)
    if only in {None, "writes"}:
        yield replayed_run(bench, counts.runs, plan, name, POLL_S)
        base = bench.system.ports.base
        yield delayed_run(base, counts.runs, plan, name, POLL_S)
        yield durable_write(bench, counts.rounds, counts.writes)
        yield committed_write(bench, counts.rounds, counts.committed)
        yield writers(bench, counts.rounds, counts.load)
        yield backlog(bench, counts.rounds, counts.backlog)
        yield full_spool(bench, counts.full_spool)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
