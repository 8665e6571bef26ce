"""Many seeds, each checked; and that a seed does the same each time.

SIMULATION_SEEDS and SIMULATION_SEED set how many and from which one on; `make soak` is the long
form. What is simulated, and how to replay a seed: `simulation.py`.
"""

import os
import subprocess
import sys

import pytest

from tests.simulation.simulation import simulate
from tests.systems import ROOT

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "300"))
FIRST_SEED = int(os.environ.get("SIMULATION_SEED", "0"))
PROCESSES = 2
SECONDS_PER_SEED = 0.5
"""On a busy machine."""


def simulating(first: int, count: int, **environment: str) -> "subprocess.Popen[str]":
    """Another process: seeds share nothing."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.simulation", str(first), str(count)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.timeout(120 + SEEDS * SECONDS_PER_SEED)
def test_every_promise_holds_in_every_seed() -> None:
    count = SEEDS // PROCESSES
    running = [simulating(FIRST_SEED + n * count, count) for n in range(PROCESSES)]

    outputs = [process.communicate()[0] for process in running]

    for process, output in zip(running, outputs, strict=True):
        assert process.returncode == 0, output


@pytest.mark.parametrize("seed", [5, 6, 2472])
def test_a_seed_does_the_same_each_time(seed: int) -> None:
    first, second = (simulate(seed, keep_trace=True) for _ in range(2))

    assert first.trace == second.trace
    assert first.acknowledged_count > 10
    for hash_seed in "12":
        output, _ = simulating(seed, 1, PYTHONHASHSEED=hash_seed).communicate()
        assert output.endswith(f"digest {first.digest[:16]}\n")


def test_seeds_differ() -> None:
    assert len({simulate(seed).digest for seed in range(5)}) == 5
