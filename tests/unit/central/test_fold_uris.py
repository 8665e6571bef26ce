"""URIs in the fold: fitting their row, write-once, sized, and deleted."""

import pytest

from central.domain.uri_registry import RegistryChange, UriRow
from central.wire.entries import (
    DeleteUris,
    PutConsole,
    PutOperatorCosts,
    PutPortResult,
    RemovedConsole,
    RemovedResult,
    SetConsoleBytes,
    SetPortResultBytes,
)
from kit.texera.uris import UriMinter
from tests.unit.central.folding import (
    CONSOLE_URI,
    EID,
    OPERATOR,
    OWNER,
    PORT,
    RESULT_URI,
    WID,
    entry,
    execution,
    folded,
    outcomes,
    update,
    with_console,
    with_result,
)

OTHER_PORT = PORT.replace("portId=0", "portId=1")


def put(uri: str = RESULT_URI, size: int | None = None, port: str = PORT) -> PutPortResult:
    made: PutPortResult = entry(
        PutPortResult, global_port_id=port, result_uri=uri, result_bytes=size
    )
    return made


def resize(size: int, port: str = PORT) -> SetPortResultBytes:
    made: SetPortResultBytes = entry(SetPortResultBytes, global_port_id=port, result_bytes=size)
    return made


@pytest.mark.parametrize(
    "uri",
    [
        UriMinter(WID, EID + 1).result_uri(PORT),
        UriMinter(WID + 1, EID).result_uri(PORT),
        UriMinter(WID, EID, "user-1-mine").result_uri(PORT),
        OWNER.result_uri(OTHER_PORT),
        OWNER.console_uri(OPERATOR),
        RESULT_URI.replace("/result", "/state"),
        RESULT_URI.replace("vfs", "s3"),
        RESULT_URI.replace("/wid", "/%77id"),
        RESULT_URI + "?x",
        "",
    ],
)
def test_a_uri_that_does_not_fit_its_row_is_refused(uri: str) -> None:
    result = folded(execution(), put(uri))

    assert outcomes(result) == ["uri-mismatch"]
    assert not result.changes.results


def test_a_uri_carries_the_executions_warehouse() -> None:
    in_warehouse = execution(warehouse="user-1-mine")

    fits = folded(in_warehouse, put(UriMinter(WID, EID, "user-1-mine").result_uri(PORT)))
    does_not = folded(in_warehouse, put(RESULT_URI))

    assert (outcomes(fits), outcomes(does_not)) == (["applied"], ["uri-mismatch"])


def test_a_new_uri_is_stored_with_its_size_or_zero() -> None:
    result = folded(execution(), put(size=5), put(OWNER.result_uri(OTHER_PORT), port=OTHER_PORT))

    assert result.changes.results == {
        (EID, PORT): RegistryChange(RESULT_URI, 5),
        (EID, OTHER_PORT): RegistryChange(OWNER.result_uri(OTHER_PORT), 0),
    }


def test_the_same_uri_again_is_applied_and_takes_its_size() -> None:
    unchanged = folded(with_result(RESULT_URI, 3), put())
    resized = folded(with_result(RESULT_URI, 3), put(RESULT_URI.replace("result", "Result"), 8))

    assert outcomes(unchanged) == outcomes(resized) == ["applied"]
    assert not unchanged.changes.results
    assert resized.changes.results == {(EID, PORT): RegistryChange(None, 8)}


def test_a_fitting_uri_is_a_conflict_while_another_is_stored() -> None:
    stored = "vfs:///wid/3/eid/6/globalportid/(from an older release)/result"

    result = folded(with_result(stored), put())

    assert outcomes(result) == ["uri-conflict"]
    assert not result.changes.results


@pytest.mark.parametrize("empty", [None, ""])
def test_a_row_without_a_uri_is_filled_and_keeps_its_size(empty: str | None) -> None:
    result = folded(with_result(empty, 4), put())

    assert result.changes.results == {(EID, PORT): RegistryChange(RESULT_URI, 4)}


def test_a_size_needs_a_row() -> None:
    result = folded(
        execution(),
        resize(1),
        entry(SetConsoleBytes, operator_id=OPERATOR, bytes=1),
        put(),
        resize(2),
    )

    assert outcomes(result) == ["port-result-not-found", "console-not-found", "applied", "applied"]
    assert result.changes.results == {(EID, PORT): RegistryChange(RESULT_URI, 2)}


def test_a_size_alone_leaves_the_stored_uri_unnamed() -> None:
    result = folded(with_result("anything"), resize(2))

    assert result.changes.results == {(EID, PORT): RegistryChange(None, 2)}


def test_consoles_follow_the_same_rules() -> None:
    def put_console(uri: str) -> PutConsole:
        made: PutConsole = entry(PutConsole, operator_id=OPERATOR, uri=uri)
        return made

    foreign = folded(execution(), put_console(OWNER.console_uri("other")))
    conflict = folded(with_console("another"), put_console(CONSOLE_URI))
    stored = folded(
        execution(),
        put_console(CONSOLE_URI),
        entry(SetConsoleBytes, operator_id=OPERATOR, bytes=6),
        put_console(CONSOLE_URI),
    )

    assert outcomes(foreign) == ["uri-mismatch"]
    assert outcomes(conflict) == ["uri-conflict"]
    assert stored.changes.consoles == {(EID, OPERATOR): RegistryChange(CONSOLE_URI, 6)}


def test_delete_answers_what_it_removed_and_later_entries_see_the_rows_gone() -> None:
    both = execution(
        results={PORT: UriRow(RESULT_URI, 5), OTHER_PORT: UriRow(None, None)},
        consoles={OPERATOR: UriRow(CONSOLE_URI, 6)},
    )

    result = folded(both, entry(DeleteUris), resize(9), entry(DeleteUris))

    first, _, second = result.outcomes
    assert first.removed is not None
    assert first.removed.results == [
        RemovedResult(PORT, RESULT_URI, 5),
        RemovedResult(OTHER_PORT, None, None),
    ]
    assert first.removed.console == [RemovedConsole(OPERATOR, CONSOLE_URI, 6)]
    assert outcomes(result)[1] == "port-result-not-found"
    assert second.removed is not None
    assert (second.removed.results, second.removed.console) == ([], [])
    assert result.changes.results == {(EID, PORT): None, (EID, OTHER_PORT): None}
    assert result.changes.consoles == {(EID, OPERATOR): None}


def test_a_deleted_row_may_be_put_anew_even_where_another_uri_was_stored() -> None:
    result = folded(with_result("another", 7), entry(DeleteUris), put())

    assert outcomes(result) == ["applied", "applied"]
    assert result.changes.results == {(EID, PORT): RegistryChange(RESULT_URI, 0)}


def test_a_row_put_and_deleted_in_one_batch_is_gone() -> None:
    result = folded(execution(), put(), entry(DeleteUris))

    assert result.changes.results == {(EID, PORT): None}


def test_the_runtime_statistics_uri_must_fit_and_the_last_one_counts() -> None:
    minted = OWNER.runtime_stats_uri()

    foreign = folded(execution(), update(runtime_stats_uri=CONSOLE_URI, name="n"))
    stored = folded(execution(), update(runtime_stats_uri=minted, runtime_stats_bytes=4))

    assert outcomes(foreign) == ["uri-mismatch"]
    assert not foreign.changes.executions
    change = stored.changes.executions[EID]
    assert (change.runtime_stats_uri, change.runtime_stats_bytes) == (minted, 4)


def test_the_last_operator_costs_count() -> None:
    result = folded(
        execution(),
        entry(PutOperatorCosts, operators={"a": 1.0, "b": 2.0}),
        entry(PutOperatorCosts, operators={"a": 3.0}),
    )

    assert result.changes.operator_costs == {EID: {"a": 3.0}}
