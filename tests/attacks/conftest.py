"""Attacks on the running system, under the chart's memory limits, each with a record.

`make test` runs each attack once; `make attack` repeats it `ATTACK_ROUNDS` times and prints a
record: cost and effect before, which are the attack's line in docs/security.md, and effect now.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dev.ready import Ready
from tests.attacks.hostile import MIB, chart_limit_bytes, peak_bytes, reset_peak
from tests.databases import open_folder
from tests.systems import Up, is_alive, running_system

PAGE = Path(__file__).parents[2] / "docs/security.md"
SERVICES = ("sidecar", "central")

Record = Callable[[str], None]
"""Called once by each attack's test, with the effect that it has measured."""


@pytest.fixture(scope="session")
def rounds() -> int:
    """How often an attack is repeated."""
    return int(os.environ.get("ATTACK_ROUNDS", "1"))


@pytest.fixture(scope="module")
def attacked() -> Iterator[Up]:
    """A system of the module's own, as users start it. A module may define its own fixture."""
    with open_folder() as folder, running_system(folder) as up:
        yield up


@pytest.fixture
def system(attacked: Up) -> Iterator[Ready]:
    """The system under attack. Its services survive each attack within the chart's limits."""
    ready = attacked.ready
    for role in SERVICES:
        reset_peak(ready, role)
    yield ready
    for role in SERVICES:
        assert is_alive(ready["processes"][role]["pid"])
        peak, limit = peak_bytes(ready, role), chart_limit_bytes(role)
        assert peak < limit, f"{role} took {peak / MIB:.0f} MiB of {limit / MIB:.0f}"


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Keeps what the attack does now, for the report. The attack has a line in docs/security.md."""
    test = f"{request.node.path.relative_to(PAGE.parents[1])}::{request.node.originalname}"
    attack, cost, before = line_of(test)

    def keep(now: str) -> None:
        request.node.user_properties.append(("attack", (attack, cost, before, now)))

    return keep


def line_of(test: str) -> tuple[str, str, str]:
    """Attack, cost and effect before, from the table of attacks."""
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.split(" | ")]
        if len(cells) == 5 and f"`{test}`" in cells[4]:
            return cells[0].removeprefix("| "), cells[1], cells[2]
    raise AssertionError(f"docs/security.md has no line for {test}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if "ATTACK_ROUNDS" not in os.environ:
        return
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "attack" and report.when == "call":
                attack, cost, before, now = (re.sub(r"\s+", " ", text) for text in value)
                terminalreporter.write_line(f"{attack}\n  cost    {cost}")
                terminalreporter.write_line(f"  before  {before}\n  now     {now}")
