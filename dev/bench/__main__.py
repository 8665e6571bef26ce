"""`python -m dev.bench`: measure on one fresh system, and write docs/benchmarks.md.

With --quick only a few calls are made and nothing is written: to see that it works.
"""

import argparse
import asyncio
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

from dev.bench.bench_system import bench_of
from dev.bench.load import backlog, writers
from dev.bench.machine import described
from dev.bench.measurements import cached_read, committed_write, durable_write, replayed_run
from dev.bench.page import page
from dev.child import ROOT
from dev.problems import DevProblem
from dev.run_plan import plan_run
from dev.system import Options, System
from dev.texera import SAMPLE_WORKFLOW
from dev.workflow_file import read_workflow

PAGE = ROOT / "docs" / "benchmarks.md"
MOVIES = ROOT.parent / "shared" / "workflows" / "movies_exploration.json"
PORT_BASE = 21000
POLL_S = 3.0


@dataclass(frozen=True)
class Counts:
    """How many rounds, and calls per round and way."""

    rounds: int
    reads: int
    writes: int
    committed: int
    runs: int
    load: int
    backlog: int

    def sentence(self) -> str:
        return (
            f"{self.rounds} rounds; per round and way {self.reads} reads, {self.writes} writes,"
            f" {self.committed} committed writes, {self.load} writes by many writers, a backlog of"
            f" {self.backlog}; {self.runs} runs replayed each way"
        )


FULL = Counts(rounds=7, reads=400, writes=60, committed=10, runs=1, load=2_000, backlog=8_000)
QUICK = Counts(rounds=2, reads=50, writes=20, committed=5, runs=1, load=100, backlog=200)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few calls; print only")
    parser.add_argument("--port-base", type=int, default=PORT_BASE, metavar="N")
    options = parser.parse_args(arguments)
    command = " ".join(["python -m dev.bench", *arguments])
    try:
        text = asyncio.run(measured(command, QUICK if options.quick else FULL, options.port_base))
    except DevProblem as problem:
        print(f"dev.bench: {problem}", file=sys.stderr)
        return 1
    print(text, end="")
    if not options.quick:
        PAGE.write_text(text)
    return 0


LIMITS = (
    "SIDECAR_LIMIT_WRITES_PER_S",
    "SIDECAR_LIMIT_WRITE_BYTES_PER_S",
    "CENTRAL_LIMIT_USER_CALLS_PER_S",
    "CENTRAL_LIMIT_USER_BYTES_PER_S",
    "CENTRAL_LIMIT_SOURCE_CALLS_PER_S",
    "CENTRAL_LIMIT_SOURCE_BYTES_PER_S",
)


async def measured(command: str, counts: Counts, port_base: int) -> str:
    """The page of one run."""
    workflow = MOVIES if MOVIES.exists() else SAMPLE_WORKFLOW
    plan = plan_run(read_workflow(workflow))
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    # What is measured is how much each can do, not how much one user may.
    unlimited = dict.fromkeys(LIMITS, "0")
    options = Options(port_base=port_base, settings=unlimited)
    async with System(options) as system, bench_of(system) as bench:
        machine = await described(bench.direct, system.folder.path)
        sections = []
        for measurement in (
            replayed_run(bench, counts.runs, plan, workflow.name, POLL_S),
            cached_read(bench, counts.rounds, counts.reads),
            durable_write(bench, counts.rounds, counts.writes),
            committed_write(bench, counts.rounds, counts.committed),
            writers(bench, counts.rounds, counts.load),
            backlog(bench, counts.rounds, counts.backlog),
        ):
            sections.append(await measurement)
            print(f"measured: {sections[-1].title}", file=sys.stderr)
    return page(command, date, machine, counts.sentence(), sections)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
