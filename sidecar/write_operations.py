"""Builds the spool entry of a validated request.

Pure functions. They refuse what the sidecar can know to be wrong, before the write is
acknowledged; only central can refuse the rest (another URI stored, an execution that has ended).
"""

from typing import Any

from msgspec import UNSET

from kit.http.problems import InvalidRequest, invalid_field
from kit.texera.fields import is_valid_pg_text
from kit.texera.statuses import Status, parse_status
from kit.texera.uris import GlobalPortId, UriMinter, check_operator_id, is_same_uri
from sidecar.problems import UriMismatch
from sidecar.spool.bindings import Binding
from sidecar.spool.entry import NewEntry, Priority
from sidecar.wire import v1


def validate_port(text: str, field: str = "global_port_id") -> str:
    try:
        GlobalPortId.parse(text)
    except ValueError as error:
        raise invalid_field(field, str(error)) from error
    return text


def validate_operator(text: str, field: str = "operator_id") -> str:
    try:
        check_operator_id(text)
    except ValueError as error:
        raise invalid_field(field, str(error)) from error
    return text


def parse_status_field(value: str | int) -> Status:
    """The status of a name or code. Raises `InvalidRequest` naming the field `status`."""
    try:
        return parse_status(value)
    except ValueError as error:
        codes = ", ".join(f"{status} ({status.code})" for status in Status)
        raise invalid_field("status", f"one of {codes}") from error


def patch_fields(changes: v1.ExecutionChanges) -> dict[str, Any]:
    """The fields of an `update_execution`. Raises `InvalidRequest` if there are none."""
    fields = {
        name: value
        for name in v1.ExecutionChanges.__struct_fields__
        if (value := getattr(changes, name)) is not UNSET
        and (value is not None or name == "log_location")
        and not (name == "name" and value == "")
    }
    if not fields:
        known = ", ".join(v1.ExecutionChanges.__struct_fields__)
        raise InvalidRequest(f"nothing to change: expected at least one of {known}")
    if "status" in fields:
        fields["status"] = parse_status_field(fields["status"]).value
    return fields


def update_execution(fields: dict[str, Any], binding: Binding, user_id: int) -> NewEntry:
    uri = fields.get("runtime_stats_uri")
    if uri is not None:
        _check_uri(uri, _minter(binding).runtime_stats_uri(), "runtime_stats_uri")
    only_size = fields.keys() == {"runtime_stats_bytes"}
    priority = Priority.NORMAL
    if uri is not None:
        priority = Priority.URI
    if "status" in fields:
        ends = Status(fields["status"]).is_terminal
        priority = Priority.TERMINAL if ends else Priority.STATUS
    return NewEntry(
        binding.execution_id,
        user_id,
        "update_execution",
        fields,
        priority,
        coalesce_key="runtime_stats" if only_size else None,
    )


def put_port_result(port: str, body: v1.PortResult, binding: Binding, user_id: int) -> NewEntry:
    _check_uri(body.result_uri, _minter(binding).result_uri(port), "result_uri")
    fields: dict[str, Any] = {"global_port_id": port, "result_uri": body.result_uri}
    if body.result_bytes is not None:
        fields["result_bytes"] = body.result_bytes
    return NewEntry(binding.execution_id, user_id, "put_port_result", fields, Priority.URI)


def set_port_result_size(
    port: str, body: v1.PortResultSize, binding: Binding, user_id: int
) -> NewEntry:
    return NewEntry(
        binding.execution_id,
        user_id,
        "set_port_result_bytes",
        {"global_port_id": port, "result_bytes": body.result_bytes},
        Priority.NORMAL,
        coalesce_key=f"port {port}",
    )


def put_console(operator: str, body: v1.Console, binding: Binding, user_id: int) -> NewEntry:
    _check_uri(body.uri, _minter(binding).console_uri(operator), "uri")
    fields: dict[str, Any] = {"operator_id": operator, "uri": body.uri}
    if body.bytes is not None:
        fields["bytes"] = body.bytes
    return NewEntry(binding.execution_id, user_id, "put_console", fields, Priority.URI)


def set_console_size(
    operator: str, body: v1.ConsoleSize, binding: Binding, user_id: int
) -> NewEntry:
    return NewEntry(
        binding.execution_id,
        user_id,
        "set_console_bytes",
        {"operator_id": operator, "bytes": body.bytes},
        Priority.NORMAL,
        coalesce_key=f"console {operator}",
    )


def put_operator_costs(body: v1.OperatorCosts, binding: Binding, user_id: int) -> NewEntry:
    for operator in body.operators:
        name = operator if is_valid_pg_text(operator) else "?"
        validate_operator(operator, f"operators.{name[:100]}")
    fields = {"operators": body.operators}
    return NewEntry(binding.execution_id, user_id, "put_operator_costs", fields, Priority.NORMAL)


def delete_uris(binding: Binding, user_id: int) -> NewEntry:
    return NewEntry(binding.execution_id, user_id, "delete_uris", {}, Priority.URI)


def _minter(binding: Binding) -> UriMinter:
    return UriMinter(binding.workflow_id, binding.execution_id, binding.warehouse)


def _check_uri(uri: str, expected_uri: str, field: str) -> None:
    if not is_same_uri(uri, expected_uri):
        raise UriMismatch(f"{field}: expected {expected_uri}")
