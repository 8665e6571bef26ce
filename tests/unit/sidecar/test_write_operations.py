"""Which writes are refused before they are durable, and how pending writes apply."""

from typing import Any

import msgspec
import pytest

from kit.http.problems import InvalidRequest
from kit.texera.statuses import Status
from sidecar import write_operations
from sidecar.cache.pending import apply_to_execution
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


def parsed_patch(body: str) -> dict[str, Any]:
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


def with_pending(before: v1.Execution, **members: Any) -> v1.Execution:
    apply_to_execution(before, {"op": "update_execution"} | members)
    return before


PUTS = [(put_result, RESULT), (put_console, CONSOLE), (put_stats, STATS)]


@pytest.mark.parametrize(("put", "expected_uri"), PUTS)
def test_the_expected_uri_is_accepted_with_its_last_segment_in_any_case(
    put: Any, expected_uri: str
) -> None:
    head, _, kind = expected_uri.rpartition("/")

    for uri in (expected_uri, f"{head}/{kind.upper()}", f"{head}/{kind.title()}"):
        entry = put(uri)
        assert uri in entry.fields.values()
        assert entry.priority is Priority.URI
        assert entry.coalesce_key is None


@pytest.mark.parametrize(("put", "expected_uri"), PUTS)
def test_any_other_uri_is_refused_as_a_mismatch(put: Any, expected_uri: str) -> None:
    others = [
        "",
        expected_uri + "/",
        expected_uri + "?a=b",
        expected_uri + "#x",
        expected_uri.replace("wid/3", "wid/4"),
        expected_uri.replace("eid/7", "eid/8"),
        expected_uri.replace("eid/7", "EID/7"),
        expected_uri.replace("eid/7", "eid/8/../7"),
        expected_uri.replace("eid/7", "eid//7"),
        expected_uri.replace("eid/7", "eid/%37"),
        expected_uri.replace("vfs:///", "vfs://host/"),
        expected_uri.replace("vfs:///", "s3:///"),
        expected_uri.replace("vfs:///", "vfs:///wh/mine/"),
        f" {expected_uri}",
        f"{expected_uri}\n",
    ]

    for uri in others:
        with pytest.raises(UriMismatch):
            put(uri)


def test_a_mismatch_names_the_expected_uri() -> None:
    with pytest.raises(UriMismatch) as raised:
        put_result("vfs:///other")

    assert raised.value.status == 422
    assert RESULT in raised.value.detail


def test_a_warehouse_is_part_of_the_uri() -> None:
    in_warehouse = Binding(7, 3, 5, 1, "mine", created_here=True)

    put_stats(STATS.replace("vfs:///", "vfs:///wh/mine/"), in_warehouse)
    with pytest.raises(UriMismatch):
        put_stats(STATS, in_warehouse)


def test_an_invalid_port_or_operator_is_refused_by_field() -> None:
    assert write_operations.validate_port(PORT) == PORT
    assert write_operations.validate_operator("op-1") == "op-1"

    for check, text, field in (
        (write_operations.validate_port, "op", "global_port_id"),
        (write_operations.validate_operator, "a/b", "operator_id"),
        (write_operations.validate_operator, "", "operator_id"),
    ):
        with pytest.raises(InvalidRequest) as raised:
            check(text)
        assert [error.field for error in raised.value.errors] == [field]


# PATCH


@pytest.mark.parametrize("body", ["{}", '{"name": null, "status": null}', '{"name": ""}'])
def test_a_patch_that_changes_nothing_is_refused(body: str) -> None:
    with pytest.raises(InvalidRequest):
        parsed_patch(body)


def test_null_means_absent_except_for_the_log_location() -> None:
    assert parsed_patch('{"log_location": null, "name": null}') == {"log_location": None}
    assert parsed_patch('{"log_location": "/l", "result": ""}') == {
        "log_location": "/l",
        "result": "",
    }
    assert parsed_patch('{"bookmarked": false, "runtime_stats_bytes": 0}') == {
        "bookmarked": False,
        "runtime_stats_bytes": 0,
    }


@pytest.mark.parametrize(
    ("given", "kept"),
    [('"running"', "RUNNING"), ("3", "COMPLETED"), ('"UNINITIALIZED"', "READY"), ("-1", "UNKNOWN")],
)
def test_a_status_is_a_name_in_any_case_or_a_code(given: str, kept: str) -> None:
    assert parsed_patch(f'{{"status": {given}}}') == {"status": kept}


@pytest.mark.parametrize("given", ['"DONE"', '""'])
def test_an_unknown_status_name_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parsed_patch(f'{{"status": {given}}}')

    assert [error.field for error in raised.value.errors] == ["status"]


@pytest.mark.parametrize("given", ["6", "-2"])
def test_an_unknown_status_code_is_refused_by_its_type(given: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.status"):
        parsed_patch(f'{{"status": {given}}}')


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
def test_a_terminal_status_has_the_highest_priority(
    members: dict[str, Any], priority: Priority
) -> None:
    assert write_operations.update_execution(members, BINDING, 1).priority is priority


def test_only_a_write_of_a_size_alone_has_a_coalesce_key() -> None:
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


# Pending writes


@pytest.mark.parametrize("end", [Status.COMPLETED, Status.FAILED, Status.KILLED])
@pytest.mark.parametrize("late", [Status.READY, Status.RUNNING, Status.PAUSED])
def test_a_write_that_central_will_refuse_leaves_a_terminal_row_unchanged(
    end: Status, late: Status
) -> None:
    after = with_pending(row(end), status=late.value, name="new")

    assert after == row(end)


@pytest.mark.parametrize("end", [Status.COMPLETED, Status.FAILED, Status.KILLED])
def test_the_same_terminal_status_again_applies_the_other_fields(end: Status) -> None:
    assert with_pending(row(end), status=end.value, name="new") == row(end, name="new")


def test_only_killed_may_become_completed() -> None:
    after = with_pending(row(Status.KILLED), status="COMPLETED")

    assert (after.status, after.status_code) == (Status.COMPLETED, 3)
    for end, other in (
        (Status.COMPLETED, "KILLED"),
        (Status.COMPLETED, "FAILED"),
        (Status.FAILED, "COMPLETED"),
        (Status.FAILED, "KILLED"),
        (Status.KILLED, "FAILED"),
    ):
        assert with_pending(row(end), status=other, name="new") == row(end)


@pytest.mark.parametrize("end", [Status.COMPLETED, Status.FAILED, Status.KILLED])
def test_the_runs_own_end_replaces_a_provisional_failed(end: Status) -> None:
    closed = row(Status.FAILED, provisional=True)

    assert with_pending(closed, status=end.value, name="new") == row(end, name="new")


def test_a_status_that_is_no_end_is_late_after_a_provisional_failed() -> None:
    closed = row(Status.FAILED, provisional=True)

    assert with_pending(closed, status="RUNNING", name="new") == row(
        Status.FAILED, provisional=True
    )
    assert with_pending(closed, name="new") == row(Status.FAILED, provisional=True, name="new")


def test_the_second_end_after_a_provisional_failed_is_refused() -> None:
    closed = row(Status.FAILED, provisional=True)

    ended = with_pending(closed, status="COMPLETED")

    assert with_pending(ended, status="KILLED", name="new") == row(Status.COMPLETED)


@pytest.mark.parametrize("transient", ["PAUSING", "RESUMING", "TERMINATED", "UNKNOWN"])
def test_a_transient_status_is_ignored_and_its_other_fields_apply(transient: str) -> None:
    assert with_pending(row(), status=transient, name="new") == row(name="new")


def test_a_transient_status_after_the_end_still_applies_its_other_fields() -> None:
    after = with_pending(row(Status.COMPLETED), status="PAUSING", name="new")

    assert after == row(Status.COMPLETED, name="new")


def test_only_named_fields_are_applied() -> None:
    after = with_pending(row(log_location="/l"), log_location=None, bookmarked=True)

    assert after == row(log_location=None, bookmarked=True)


@pytest.mark.parametrize("name", v1.ExecutionChanges.__struct_fields__)
def test_each_field_of_a_patch_is_seen_in_the_row_while_pending(name: str) -> None:
    value = "COMPLETED" if name == "status" else "new"

    after = with_pending(row(), **{name: value})

    assert getattr(after, name) == value


def test_the_last_runtime_statistics_uri_wins_as_it_does_at_central() -> None:
    first = with_pending(row(), runtime_stats_uri=STATS, runtime_stats_bytes=4)
    again = with_pending(first, runtime_stats_uri="vfs:///other")

    assert (again.runtime_stats_uri, again.runtime_stats_bytes) == ("vfs:///other", 4)


def test_writes_of_uris_leave_the_row_unchanged() -> None:
    before = row()

    apply_to_execution(before, {"op": "delete_uris"})

    assert before == row()
