"""Tables of commands: hostile texts stay text, on a terminal and in a pipe."""

import os
import pty
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from kit.tables import cell, duration, plain, watch

HOSTILE = "[bold]name[/bold]\x1b[2J\n\u202egnp"
PROGRAM = f"""
from kit.tables import print_table
print_table(("NAME", "N"), [({HOSTILE!r}, 1), (None, "x" * 300)])
"""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (True, "yes"),
        (7, "7"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02 03:04:05Z"),
        ("plain", "plain"),
        (HOSTILE, r"'[bold]name[/bold]\x1b[2J\n\u202egnp'"),
    ],
)
def test_a_cell_is_one_printable_line(value: object, expected: str) -> None:
    assert cell(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "-"),
        (0.43, "0.4 s"),
        (12.3, "12 s"),
        (180, "3.0 min"),
        (7200, "2.0 h"),
        (2e5, "2.3 d"),
    ],
)
def test_a_duration_is_in_the_unit_that_a_person_uses(seconds: float | None, expected: str) -> None:
    assert duration(seconds) == expected


def test_a_pipe_gets_plain_columns_that_are_not_cut() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )

    assert "x" * 300 in done.stdout
    assert "\x1b" not in done.stdout


def test_a_terminal_gets_no_markup_and_no_control_sequence_of_a_cell() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=theirs,
        env={"TERM": "xterm", "COLUMNS": "120", "PATH": os.environ["PATH"]},
    )
    os.close(theirs)
    drawn = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not more:
            break
        drawn += more
    os.close(ours)

    assert process.wait() == 0
    text = drawn.decode()
    assert "[bold]name[/bold]" in text
    assert "\x1b[2J" not in text
    assert "\u2500" in text  # it is drawn


@pytest.mark.parametrize("service", ["sidecar", "central"])
def test_no_service_that_runs_holds_rich(service: str) -> None:
    program = f"import sys, {service}.lifecycle; print('rich' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert done.stdout == b"False\n"


def test_a_watch_shows_until_it_is_interrupted_and_returns_the_last_code() -> None:
    codes = [0, 1, 0, 1]

    def sleep(_: float) -> None:
        if len(codes) == 1:
            raise KeyboardInterrupt

    assert watch(lambda: codes.pop(0), 2.0, sleep) == 0
    assert codes == [1]
    assert watch(lambda: codes.pop(0), None, sleep) == 1


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert plain(("A", "B"), [("long", "x"), ("s", "y")]) == "A     B\nlong  x\ns     y"
