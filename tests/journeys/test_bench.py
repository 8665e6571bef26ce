"""The benchmark runs, with few calls: the same code that writes docs/benchmarks.md."""

import re
import subprocess
import sys

import pytest

from tests.systems import ROOT, free_port_base


@pytest.mark.timeout(300)
def test_quick_run_measures_every_read_goal() -> None:
    command = [sys.executable, "-m", "dev.bench", "--quick", "--only", "reads"]

    run = subprocess.run(
        [*command, "--port-base", str(free_port_base())],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )

    assert run.returncode == 0, run.stderr
    goals = re.findall(r"^\| (.+?) \| [\d.]+ \w+ \| .* \|$", run.stdout, re.MULTILINE)
    assert "cached read / SQL on a held connection" in goals
    assert "central calls per 1000 polls" in goals
    assert "start to ready" in goals
    has_tools = "nginx and wrk are missing" not in run.stderr
    assert ("One key, 16 connections: CPU / nginx" in goals) == has_tools
    assert "Responses that were not `X-Cache: hit`: 0 of" in run.stdout
