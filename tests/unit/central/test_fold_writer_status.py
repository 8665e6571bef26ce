"""Who may write: what is refused for good, what is deferred, and for whom."""

import pytest

from central.domain.fold import WriterStatus
from central.problems import UnknownOperation
from central.wire.entries import DeleteUris, InvalidEntry
from tests.unit.central.folding import EID, entry, execution, folded, outcomes, update


@pytest.mark.parametrize(
    ("writer_status", "slug"),
    [
        (WriterStatus.NOT_BOUND, "not-bound"),
        (WriterStatus.REVOKED, "binding-revoked"),
        (WriterStatus.DEMOTED, "user-demoted"),
    ],
)
def test_a_source_that_may_not_write_is_refused_with_the_reason(
    writer_status: WriterStatus, slug: str
) -> None:
    result = folded(execution(writer_status=writer_status), update(status=3), entry(DeleteUris))

    assert outcomes(result) == [slug, slug]
    assert not result.changes.executions


def test_a_row_that_is_gone_is_refused_for_good() -> None:
    assert outcomes(folded(None, update(status=3))) == ["execution-not-found"]


def test_a_locked_row_defers_every_entry_of_its_execution_and_of_no_other() -> None:
    locked = execution(EID, writer_status=WriterStatus.BLOCKED)

    result = folded(
        [locked, execution(8)],
        update(status=1),
        update(status=1, execution_id=8),
        update(status=3),
        entry(DeleteUris),
    )

    assert outcomes(result) == ["deferred", "applied", "deferred", "deferred"]
    assert list(result.changes.executions) == [8]


def test_an_invalid_entry_of_a_locked_execution_keeps_its_place_in_the_order() -> None:
    locked = execution(EID, writer_status=WriterStatus.BLOCKED)
    broken = InvalidEntry(2, EID, "fly", UnknownOperation("op: ..."))

    result = folded(locked, update(status=1), broken, update(status=3))

    assert outcomes(result) == ["deferred", "deferred", "deferred"]


@pytest.mark.parametrize("status", [-1, 1, 3, 4, 5])
@pytest.mark.parametrize("is_provisional", [True, False])
def test_a_source_that_was_bound_after_the_end_writes_everything_but_the_status(
    status: int, is_provisional: bool
) -> None:
    run = execution(
        status=4, ended_by=None, ended_provisionally=is_provisional, may_set_status=False
    )

    result = folded(
        run, update(name="renamed"), update(status=status, name="other"), update(bookmarked=True)
    )

    assert outcomes(result) == ["applied", "not-the-runner", "applied"]
    after = result.after()[EID]
    assert (after.status, after.ended_provisionally) == (4, is_provisional)
    assert (result.changes.executions[EID].name, result.changes.executions[EID].status) == (
        "renamed",
        None,
    )


def test_an_entry_that_cannot_be_read_is_refused_alone() -> None:
    broken = InvalidEntry(2, EID, "fly", UnknownOperation("op: ..."))

    result = folded(execution(), update(name="a"), broken, update(bookmarked=True))

    assert outcomes(result) == ["applied", "unknown-operation", "applied"]


def test_a_outcome_says_for_whom_the_entry_was_made() -> None:
    result = folded(execution(user_id=12), update(status="PAUSING"), update(execution_id=99))

    assert [outcome.user_id for outcome in result.outcomes] == [12, None]
