"""The status rules, one test for each sentence of the essay in central/domain/fold.py."""

import pytest

from central.domain.fold import MAX_AGE_MS
from tests.unit.central.folding import (
    EID,
    OTHER_SOURCE,
    ended,
    execution,
    folded,
    outcomes,
    update,
)

READY, RUNNING, PAUSED, COMPLETED, FAILED, KILLED = range(6)
TERMINAL = [COMPLETED, FAILED, KILLED]


@pytest.mark.parametrize("code", TERMINAL)
def test_the_same_terminal_status_again_succeeds_and_changes_nothing(code: int) -> None:
    result = folded(ended(code, by=OTHER_SOURCE), update(status=code, age_ms=5))

    assert outcomes(result) == ["applied"]
    assert not result.changes.executions


@pytest.mark.parametrize("code", TERMINAL)
@pytest.mark.parametrize("late", [READY, RUNNING, PAUSED])
def test_a_status_from_before_the_end_is_late(code: int, late: int) -> None:
    result = folded(ended(code), update(status=late))

    assert outcomes(result) == ["late"]
    assert not result.changes.executions


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        (COMPLETED, FAILED),
        (COMPLETED, KILLED),
        (FAILED, COMPLETED),
        (FAILED, KILLED),
        (KILLED, FAILED),
    ],
)
def test_another_terminal_status_is_a_conflict_that_names_the_winner(
    winner: int, loser: int
) -> None:
    result = folded(ended(winner), update(status=loser))

    (outcome,) = result.outcomes
    assert outcome.problem is not None
    document = outcome.problem.document()
    assert document["type"] == "status-conflict"
    assert document["winner"] == ["COMPLETED", "FAILED", "KILLED"][winner - COMPLETED]
    assert document["winner"] in document["detail"]


def test_killed_becomes_completed_from_the_source_that_killed_it() -> None:
    result = folded(execution(status=RUNNING), update(status=KILLED), update(status=COMPLETED))

    assert outcomes(result) == ["applied", "applied"]
    assert result.changes.executions[EID].status == COMPLETED


@pytest.mark.parametrize("killer", [OTHER_SOURCE, None])
def test_killed_by_anyone_else_does_not_become_completed(killer: str | None) -> None:
    result = folded(ended(KILLED, by=killer), update(status=COMPLETED))

    assert outcomes(result) == ["status-conflict"]


@pytest.mark.parametrize("code", TERMINAL)
def test_the_closers_failed_gives_way_to_the_first_terminal_status_of_the_source(
    code: int,
) -> None:
    closed = ended(FAILED, by=None, provisionally=True)

    result = folded(closed, update(status=code, age_ms=MAX_AGE_MS), update(status=FAILED))

    assert outcomes(result)[0] == "applied"
    assert result.changes.executions[EID].status == code
    assert outcomes(result)[1] == ("applied" if code == FAILED else "status-conflict")


def test_before_that_a_non_terminal_status_is_late_even_after_the_closers_failed() -> None:
    closed = ended(FAILED, by=None, provisionally=True)

    result = folded(closed, update(status=RUNNING), update(status=COMPLETED))

    assert outcomes(result) == ["late", "applied"]


@pytest.mark.parametrize("before", [execution(status=RUNNING), ended(COMPLETED)])
@pytest.mark.parametrize("status", ["PAUSING", "RESUMING", "TERMINATED", "UNKNOWN", -1])
def test_transient_statuses_are_accepted_and_not_stored(before, status) -> None:  # type: ignore[no-untyped-def]
    result = folded(before, update(status=status))

    assert outcomes(result) == ["applied"]
    assert not result.changes.executions


def test_other_columns_named_with_a_transient_status_are_stored() -> None:
    result = folded(execution(), update(status="PAUSING", name="mine"))

    change = result.changes.executions[EID]
    assert (change.status, change.status_age_ms, change.name) == (None, None, "mine")


def test_between_non_terminal_statuses_the_last_word_counts() -> None:
    result = folded(execution(), update(status="RUNNING"), update(status="paused"))

    assert result.changes.executions[EID].status == PAUSED


def test_uninitialized_is_stored_as_ready() -> None:
    result = folded(execution(status=RUNNING), update(status="UNINITIALIZED"))

    assert result.changes.executions[EID].status == READY


def test_an_update_with_a_late_status_is_refused_as_a_whole() -> None:
    result = folded(ended(COMPLETED), update(status=RUNNING, name="new", bookmarked=True))

    assert outcomes(result) == ["late"]
    assert not result.changes.executions


def test_an_ended_execution_still_takes_its_other_columns() -> None:
    result = folded(ended(COMPLETED), update(name="new", runtime_stats_bytes=9, log_location=None))

    change = result.changes.executions[EID]
    assert (change.name, change.runtime_stats_bytes, change.log_location) == ("new", 9, None)


def test_the_youngest_stored_status_gives_the_age() -> None:
    result = folded(
        execution(),
        update(status=RUNNING, age_ms=500),
        update(status=COMPLETED, age_ms=80),
        update(status=RUNNING, age_ms=10),
        update(name="no status, no age", age_ms=1),
    )

    assert outcomes(result) == ["applied", "applied", "late", "applied"]
    assert result.changes.executions[EID].status_age_ms == 80


def test_an_age_is_held_between_zero_and_seven_days() -> None:
    from_the_future = folded(execution(), update(status=RUNNING, age_ms=-5000))
    from_long_ago = folded(execution(), update(status=RUNNING, age_ms=10**12))

    assert from_the_future.changes.executions[EID].status_age_ms == 0
    assert from_long_ago.changes.executions[EID].status_age_ms == MAX_AGE_MS == 604_800_000


def test_only_named_columns_are_written_and_the_last_writer_wins() -> None:
    result = folded(execution(), update(name="a", result="r"), update(name="b", log_location="/l"))

    change = result.changes.executions[EID]
    assert (change.name, change.result, change.log_location) == ("b", "r", "/l")
    assert (change.status, change.bookmarked, change.runtime_stats_uri) == (None, None, None)


def test_an_empty_name_means_absent_and_an_empty_result_does_not() -> None:
    result = folded(execution(), update(name="", result=""))

    change = result.changes.executions[EID]
    assert (change.name, change.result) == (None, "")
