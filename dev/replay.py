"""`python -m dev replay`: a computing unit that runs a workflow file through a sidecar."""

import argparse
import asyncio
import json
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from cu_metadata_client.protocol import Address
from dev.computing_unit import ComputingUnit, RunReport
from dev.metadata_backend import CallFailed
from dev.problems import DevProblem
from dev.progress import progress_reporter
from dev.run_plan import RunPlan, plan_run
from dev.sidecar_backend import SidecarBackend
from dev.signals import EXIT_INTERRUPTED, Interrupted, run_until_signal
from dev.workflow_file import read_workflow

EXIT_ERRORS = 1
KILL_TIMEOUT_S = 3.0
"""How long an interrupted run tries to store KILLED."""


def main(arguments: list[str]) -> int:
    """0 if the run ended as its plan does, COMPLETED or FAILED, and without errors."""
    options = parser().parse_args(arguments)
    plan = plan_run(read_workflow(options.workflow))
    try:
        report, retries = asyncio.run(run_until_signal(_replay(options, plan)))
    except Interrupted:
        print("dev replay: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except CallFailed as failed:
        raise DevProblem(f"The run could not go on: {failed}.") from failed
    if options.json:
        print(json.dumps(summary(report, retries), indent=2))
    else:
        print(
            f"execution {report.execution_id} ended {report.status}: {report.call_count} calls,"
            f" {report.waited_s * 1000:.0f} ms waited, {len(report.errors)} errors"
        )
    return EXIT_ERRORS if report.errors or report.status != plan.end_status else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dev replay", description=__doc__)
    parser.add_argument("--workflow", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--sidecar",
        type=sidecar_address,
        required=True,
        metavar="URL",
        help="http://… or unix:/path",
    )
    parser.add_argument("--token", required=True, metavar="T")
    parser.add_argument("--workflow-id", type=int, required=True, metavar="N")
    parser.add_argument("--computing-unit-id", type=int, required=True, metavar="N")
    parser.add_argument(
        "--boot-id",
        metavar="ID",
        help="first register a new master process with this id, which ends the open runs of the"
        " earlier ones",
    )
    parser.add_argument("--poll-s", type=positive_seconds, default=3.0, metavar="N")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    return parser


def sidecar_address(text: str) -> str:
    """An address that the client accepts, for argparse."""
    try:
        Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def positive_seconds(text: str) -> float:
    """A duration above zero, for argparse."""
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600 seconds")
    return seconds


def summary(report: RunReport, retries: Counter[tuple[str, str]]) -> dict[str, Any]:
    """The report for scripts. Times are in milliseconds."""
    return {
        "execution_id": report.execution_id,
        "status": report.status,
        "calls": report.calls,
        "call_count": report.call_count,
        "waits_ms": {
            call: round(sum(waits_s) * 1000, 3) for call, waits_s in report.waits_s.items()
        },
        "waited_ms": round(report.waited_s * 1000, 3),
        "settle_ms": round(report.settle_s * 1000, 3),
        "retries": [
            {"call": call, "reason": reason, "count": count}
            for (call, reason), count in sorted(retries.items())
        ],
        "errors": [
            {"call": e.call, "type": e.slug, "detail": e.detail, "status": e.http_status}
            for e in report.errors
        ],
        "skipped": report.skipped,
    }


async def _replay(
    options: argparse.Namespace, plan: RunPlan
) -> tuple[RunReport, Counter[tuple[str, str]]]:
    with progress_reporter(sys.stderr, options.workflow.stem, silent=options.json) as reporter:
        async with SidecarBackend(options.sidecar, options.token) as backend:
            if options.boot_id is not None:
                closed = await backend.register_boot(options.computing_unit_id, options.boot_id)
                reporter.event(
                    f"boot {options.boot_id}, {len(closed)} open runs of earlier ones ended"
                )
            unit = ComputingUnit(
                plan,
                backend,
                reporter,
                workflow_id=options.workflow_id,
                computing_unit_id=options.computing_unit_id,
                poll_s=options.poll_s,
            )
            try:
                return await unit.run(), backend.retries
            except asyncio.CancelledError:
                # The user ends the run: its row must not stay RUNNING.
                with suppress(CallFailed, TimeoutError):
                    await asyncio.wait_for(unit.kill(), KILL_TIMEOUT_S)
                raise
