"""The judge of the crash tests notices each way in which a promise can be broken."""

from dataclasses import replace

import pytest

from tests.journeys.crashing.checker import COMPLETED, violations
from tests.journeys.crashing.history import History, Kind
from tests.journeys.crashing.recorder import Execution, Observations

EXECUTION = 7
ROWS = Execution("s", COMPLETED, "w-3", {"p": ("uri", 5)})
ENTRIES = [("s", "e", seq, "applied") for seq in range(1, 6)]
HONEST = Observations(ENTRIES, {EXECUTION: ["w-1", "w-3"]}, {EXECUTION: ROWS})


def history() -> History:
    """Five acknowledged writes, and one between them that nothing was promised of."""
    book = History()
    for kind, key, value, seq in (
        (Kind.RESULT, "", "w-1", 1),
        (Kind.RESULT, "", "w-2", None),
        (Kind.RESULT, "", "w-3", 2),
        (Kind.PORT, "p", "uri", 3),
        (Kind.SIZE, "p", "5", 4),
        (Kind.END, "", "COMPLETED", 5),
    ):
        write = book.send(EXECUTION, kind, key, value)
        if seq is None:
            book.give_up(write)
        else:
            book.acknowledge(write, f"spool-{seq}")
    return book


def rows(**changes: object) -> Observations:
    return replace(HONEST, executions={EXECUTION: replace(ROWS, **changes)})  # type: ignore[arg-type]


def test_the_honest_are_not_accused() -> None:
    assert violations(history(), HONEST) == []


@pytest.mark.parametrize(
    ("seen", "violation"),
    [
        (replace(HONEST, entries=ENTRIES[1:]), "acknowledged and lost"),
        (replace(HONEST, entries=[*ENTRIES, ENTRIES[4]]), "applied 2 times"),
        (replace(HONEST, entries=[("s", "e", 9, "refused"), *ENTRIES]), "refused"),
        (replace(HONEST, entries=[*ENTRIES, ("s", "f", 6, "applied")]), "2 epochs"),
        (replace(HONEST, entries=[ENTRIES[1], ENTRIES[0], *ENTRIES[2:]]), "1 was applied after 2"),
        (replace(HONEST, results={EXECUTION: ["w-1", "w-3", "w-1"]}), "w-1 came after w-3"),
        (rows(result="w-2"), "result is w-2"),
        (rows(ports={}), "port p is not stored"),
        (rows(ports={"p": ("uri", 4)}), "port p has 4 bytes"),
        (rows(status=1), "its status is 1"),
    ],
)
def test_each_broken_promise_is_a_complaint(seen: Observations, violation: str) -> None:
    assert [text for text in violations(history(), seen) if violation in text]


@pytest.mark.parametrize(
    ("execution_id", "violation"), [(EXECUTION, "4 was given after 5"), (8, "4 was given twice")]
)
def test_a_number_given_out_of_order_or_twice_is_a_complaint(
    execution_id: int, violation: str
) -> None:
    seen = replace(HONEST, executions={EXECUTION: ROWS, 8: replace(ROWS, result="w-4")})
    book = history()
    write = book.send(execution_id, Kind.RESULT, "", "w-4")
    book.acknowledge(write, "spool-4")

    assert [text for text in violations(book, seen) if violation in text]
