"""The write protocol, checked exhaustively: `protocol.pml` under Spin.

docs/protocol.md lays the model beside the code. Each configuration allows some faults and is free
of errors; together they reach every statement of the model. Each rule that is taken out is missed.
"""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from dev.kube import tools

MODEL = Path(__file__).with_name("protocol.pml")

CONFIGURATIONS = {
    "a death or a cut": ("BINDS=3",),
    "a row is locked": ("BINDS=2", "DEFERRALS=1", "DEATHS=0"),
    "the last settle is lost": ("CRASHES=1", "DEATHS=0"),
    "a batch is split": ("SPLITS=1", "DEATHS=0", "BINDS=2", "CRASHES=1"),
    "the spool is recovered": ("DAMAGES=1", "DEATHS=0", "BINDS=2"),
    "central is away": ("OUTAGES=1", "BINDS=2"),
}
"""Budgets of faults. Together they reach every statement."""

MUTANTS = {
    "WITHOUT_FIELD_BINDINGS": "is_end|ran",
    "WITHOUT_FACTS_AFTER_LOCK": "binding.*revoked",
    "WITHOUT_GENERATIONS": "generation",
    "WITHOUT_CURSOR": "applied_count",
    "WITHOUT_WITHDRAWAL": "applied_count",
    "WITHOUT_SERVED_LEASE": "alive",
}
"""A rule of the protocol, and what the assertion that misses it speaks of."""

NEEDED = {"WITHOUT_SERVED_LEASE": ("OUTAGES=1",), "WITHOUT_WITHDRAWAL": ("SPLITS=1",)}
"""Budgets without which nobody misses the rule."""


@dataclass(frozen=True)
class Checked:
    """What the checker found."""

    report: str
    folder: Path

    @property
    def error_count(self) -> int:
        found = re.search(r"errors: (\d+)", self.report)
        assert found is not None, self.report
        return int(found.group(1))

    @property
    def is_exhaustive(self) -> bool:
        return "Search not completed" not in self.report and "max search depth" not in self.report

    @property
    def unreached(self) -> set[str]:
        """Statements that no execution came to, as line and text, without the ends of processes."""
        lines = re.findall(r'^\s+\S+:(\d+), state \d+, "(.*)"$', self.report, re.MULTILINE)
        return {f"{line}: {text}" for line, text in lines if text != "-end-"}

    def trace(self) -> str:
        """The steps that led to the error, as the model tells them."""
        done = subprocess.run(
            [tools.debian_program("spin", "spin"), "-t", *self._defines, "protocol.pml"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        return "\n".join(line.strip() for line in done.stdout.split("#processes")[0].splitlines())

    @property
    def _defines(self) -> list[str]:
        return (self.folder / "defines").read_text().split()


def check(folder: Path, *definitions: str) -> Checked:
    spin, compiler = tools.debian_program("spin", "spin"), tools.c_compiler()
    defines = [f"-D{one}" for one in definitions]
    (folder / "defines").write_text(" ".join(defines))
    (folder / "protocol.pml").write_text(MODEL.read_text())

    def run(*command: object) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(spin, *defines, "-a", "protocol.pml")
    # -O2 takes three seconds more to compile and saves none of a search.
    run(compiler, "-w", "-O1", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=4096", "-o", "pan", "pan.c")
    return Checked(run("./pan", "-E", "-m200000"), folder)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checked]:
    """Each configuration is checked once, when the first test needs it."""

    @cache
    def check_configuration(name: str) -> Checked:
        return check(tmp_path_factory.mktemp("model"), *CONFIGURATIONS[name])

    return check_configuration


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_no_execution_of_the_protocol_breaks_an_invariant(
    checked: Callable[[str], Checked], name: str
) -> None:
    result = checked(name)

    assert result.error_count == 0, result.trace()
    assert result.is_exhaustive


def test_every_statement_of_the_model_is_reached(checked: Callable[[str], Checked]) -> None:
    assert set.intersection(*(checked(name).unreached for name in CONFIGURATIONS)) == set()


@pytest.mark.parametrize("rule", MUTANTS)
def test_a_protocol_without_the_rule_breaks(tmp_path: Path, rule: str) -> None:
    result = check(tmp_path, rule, *NEEDED.get(rule, ()))

    assert result.error_count == 1
    assert re.search(rf"assertion violated .*(?:{MUTANTS[rule]})", result.report)
    assert "source 0: bind, generation 1" in result.trace()
