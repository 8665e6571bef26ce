"""What is refused before a write is durable, and how waiting writes show."""

from typing import Any

import msgspec
import pytest

from kit.http.problems import InvalidRequest
from kit.texera.statuses import Status
from sidecar import write_operations
from sidecar.problems import UriMismatch
from sidecar.spool.bindings import Binding
from sidecar.spool.entry import NewEntry, Priority
from sidecar.wire import v1

PORT = "(logicalOpId=op,layerName=main,portId=0,isInternal=false,isInput=false)"
BINDING = Binding(7, 3, 5, 1, None, created_here=True)
PREFIX = "vfs:///wid/3/eid/7"
RESULT = f"{PREFIX}/globalportid/{PORT}/result"
CONSOLE = f"{PREFIX}/opid/op/consolemessages"
STATS = f"{PREFIX}/runtimestatistics"


def put_result(uri: str, binding: Binding = BINDING) -> NewEntry:
    return write_operations.put_port_result(PORT, v1.PortResult(uri), binding, 1)


def put_console(uri: str, binding: Binding = BINDING) -> NewEntry:
    return write_operations.put_console("op", v1.Console(uri), binding, 1)


def put_stats(uri: str, binding: Binding = BINDING) -> NewEntry:
    return write_operations.update_execution({"runtime_stats_uri": uri}, binding, 1)


def changes(body: str) -> dict[str, Any]:
    return write_operations.patch_fields(msgspec.json.decode(body, type=v1.ExecutionChanges))


def row(status: Status = Status.RUNNING, **known: Any) -> v1.Execution:
    defaults: dict[str, Any] = {
        "execution_id": 7,
        "workflow_id": 3,
        "version_id": 2,
        "computing_unit_id": 5,
        "user_id": 1,
        "result": None,
        "name": "old",
        "bookmarked": False,
        "environment_version": "e",
        "log_location": None,
        "runtime_stats_uri": None,
        "runtime_stats_bytes": None,
        "started_at": "2024-01-01T00:00:00Z",
        "updated_at": None,
    }
    return v1.Execution(status=status, status_code=status.code, **(defaults | known))


def overlaid(before: v1.Execution, **members: Any) -> v1.Execution:
    write_operations.apply_pending_execution(before, {"op": "update_execution"} | members)
    return before


PUTS = [(put_result, RESULT), (put_console, CONSOLE), (put_stats, STATS)]


@pytest.mark.parametrize(("put", "minted"), PUTS)
def test_the_minted_uri_is_taken_and_the_case_of_its_last_segment_is_free(
    put: Any, minted: str
) -> None:
    head, _, kind = minted.rpartition("/")

    for uri in (minted, f"{head}/{kind.upper()}", f"{head}/{kind.title()}"):
        entry = put(uri)
        assert uri in entry.fields.values()
        assert entry.priority is Priority.URI
        assert entry.coalesce_key is None


@pytest.mark.parametrize(("put", "minted"), PUTS)
def test_any_other_uri_is_a_mismatch(put: Any, minted: str) -> None:
    others = [
        "",
        minted + "/",
        minted + "?a=b",
        minted + "#x",
        minted.replace("wid/3", "wid/4"),
        minted.replace("eid/7", "eid/8"),
        minted.replace("eid/7", "EID/7"),
        minted.replace("eid/7", "eid/8/../7"),
        minted.replace("eid/7", "eid//7"),
        minted.replace("eid/7", "eid/%37"),
        minted.replace("vfs:///", "vfs://host/"),
        minted.replace("vfs:///", "s3:///"),
        minted.replace("vfs:///", "vfs:///wh/mine/"),
        f" {minted}",
        f"{minted}\n",
    ]

    for uri in others:
        with pytest.raises(UriMismatch):
            put(uri)


def test_a_mismatch_says_what_was_expected() -> None:
    with pytest.raises(UriMismatch) as refusal:
        put_result("vfs:///other")

    assert refusal.value.status == 422
    assert RESULT in refusal.value.detail


def test_a_warehouse_is_part_of_the_uri() -> None:
    in_warehouse = Binding(7, 3, 5, 1, "mine", created_here=True)

    put_stats(STATS.replace("vfs:///", "vfs:///wh/mine/"), in_warehouse)
    with pytest.raises(UriMismatch):
        put_stats(STATS, in_warehouse)


def test_a_port_and_an_operator_are_checked_by_name() -> None:
    assert write_operations.validate_port(PORT) == PORT
    assert write_operations.validate_operator("op-1") == "op-1"

    for check, text, field in (
        (write_operations.validate_port, "op", "global_port_id"),
        (write_operations.validate_operator, "a/b", "operator_id"),
        (write_operations.validate_operator, "", "operator_id"),
    ):
        with pytest.raises(InvalidRequest) as refusal:
            check(text)
        assert [error.field for error in refusal.value.errors] == [field]


# Changes


@pytest.mark.parametrize("body", ["{}", '{"name": null, "status": null}', '{"name": ""}'])
def test_a_patch_that_changes_nothing_is_refused(body: str) -> None:
    with pytest.raises(InvalidRequest):
        changes(body)


def test_null_is_absent_except_for_the_log_location() -> None:
    assert changes('{"log_location": null, "name": null}') == {"log_location": None}
    assert changes('{"log_location": "/l", "result": ""}') == {"log_location": "/l", "result": ""}
    assert changes('{"bookmarked": false, "runtime_stats_bytes": 0}') == {
        "bookmarked": False,
        "runtime_stats_bytes": 0,
    }


@pytest.mark.parametrize(
    ("given", "kept"),
    [('"running"', "RUNNING"), ("3", "COMPLETED"), ('"UNINITIALIZED"', "READY"), ("-1", "UNKNOWN")],
)
def test_a_status_is_a_name_in_any_case_or_a_code(given: str, kept: str) -> None:
    assert changes(f'{{"status": {given}}}') == {"status": kept}


@pytest.mark.parametrize("given", ['"DONE"', '""'])
def test_another_name_of_a_status_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        changes(f'{{"status": {given}}}')

    assert [error.field for error in refusal.value.errors] == ["status"]


@pytest.mark.parametrize("given", ["6", "-2"])
def test_another_code_of_a_status_is_refused_by_its_type(given: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.status"):
        changes(f'{{"status": {given}}}')


@pytest.mark.parametrize(
    ("members", "priority"),
    [
        ({"status": "COMPLETED", "runtime_stats_uri": STATS}, Priority.TERMINAL),
        ({"status": "KILLED"}, Priority.TERMINAL),
        ({"status": "RUNNING"}, Priority.STATUS),
        ({"status": "PAUSING"}, Priority.STATUS),
        ({"runtime_stats_uri": STATS}, Priority.URI),
        ({"name": "n"}, Priority.NORMAL),
    ],
)
def test_an_end_is_the_most_urgent(members: dict[str, Any], priority: Priority) -> None:
    assert write_operations.update_execution(members, BINDING, 1).priority is priority


def test_only_writes_of_nothing_but_a_size_may_be_merged() -> None:
    sizes = [
        write_operations.update_execution({"runtime_stats_bytes": 1}, BINDING, 1),
        write_operations.set_port_result_size(PORT, v1.PortResultSize(1), BINDING, 1),
        write_operations.set_console_size("op", v1.ConsoleSize(1), BINDING, 1),
    ]
    others = [
        write_operations.update_execution({"runtime_stats_bytes": 1, "name": "n"}, BINDING, 1),
        put_console(CONSOLE),
        write_operations.delete_uris(BINDING, 1),
    ]

    assert len({entry.coalesce_key for entry in sizes} - {None}) == 3
    assert {entry.coalesce_key for entry in others} == {None}


# Overlay


@pytest.mark.parametrize("end", [Status.COMPLETED, Status.FAILED, Status.KILLED])
@pytest.mark.parametrize("late", [Status.READY, Status.RUNNING, Status.PAUSED])
def test_an_end_stays_and_a_refused_write_shows_nothing(end: Status, late: Status) -> None:
    after = overlaid(row(end), status=late.value, name="new")

    assert after == row(end)


@pytest.mark.parametrize("end", [Status.COMPLETED, Status.FAILED, Status.KILLED])
def test_the_same_end_again_shows_the_other_columns(end: Status) -> None:
    assert overlaid(row(end), status=end.value, name="new") == row(end, name="new")


def test_killed_becomes_completed_and_nothing_else() -> None:
    after = overlaid(row(Status.KILLED), status="COMPLETED")

    assert (after.status, after.status_code) == (Status.COMPLETED, 3)
    for end, other in (
        (Status.COMPLETED, "KILLED"),
        (Status.COMPLETED, "FAILED"),
        (Status.FAILED, "COMPLETED"),
        (Status.FAILED, "KILLED"),
        (Status.KILLED, "FAILED"),
    ):
        assert overlaid(row(end), status=other, name="new") == row(end)


@pytest.mark.parametrize("transient", ["PAUSING", "RESUMING", "TERMINATED", "UNKNOWN"])
def test_a_transient_status_is_not_shown_but_its_other_columns_are(transient: str) -> None:
    assert overlaid(row(), status=transient, name="new") == row(name="new")


def test_a_transient_status_after_the_end_still_shows_its_other_columns() -> None:
    after = overlaid(row(Status.COMPLETED), status="PAUSING", name="new")

    assert after == row(Status.COMPLETED, name="new")


def test_only_named_columns_are_laid_over() -> None:
    after = overlaid(row(log_location="/l"), log_location=None, bookmarked=True)

    assert after == row(log_location=None, bookmarked=True)


def test_the_last_runtime_statistics_uri_wins_as_it_does_at_central() -> None:
    first = overlaid(row(), runtime_stats_uri=STATS, runtime_stats_bytes=4)
    again = overlaid(first, runtime_stats_uri="vfs:///other")

    assert (again.runtime_stats_uri, again.runtime_stats_bytes) == ("vfs:///other", 4)


def test_writes_of_uris_leave_the_row_alone() -> None:
    before = row()

    write_operations.apply_pending_execution(before, {"op": "delete_uris"})

    assert before == row()
