"""The calls of the sidecar's API: each function describes one, for a client to send.

    client.send(calls.result_uri(run.execution_id, "HashJoin-1", wait_s=5))

Arguments and limits are those of the API's OpenAPI document. A write returns its state: `durable`,
or `committed` with `wait_s`.
"""

import secrets
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import partial
from operator import itemgetter
from typing import Any, Final, TypeAlias
from urllib.parse import quote, urlencode

from cu_metadata_client import models
from cu_metadata_client.protocol import Call


class Unset(Enum):
    """Marks a field that is not changed, where None is a value to store."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
WriteCall: TypeAlias = Call[models.Write]


# Executions ---------------------------------------------------------------------------------------


def create_execution(
    workflow_id: int,
    computing_unit_id: int,
    environment_version: str,
    *,
    name: str | None = None,
    warehouse_id: int | None = None,
    run_token: bool = False,
    idempotency_key: str | None = None,
) -> Call[models.NewExecution]:
    """A new run of the token's user. Sending the call again returns the same run.

    With `run_token` the result has a token that is good for this run's calls only, where the
    deployment issues them; of a call that is sent again, the newest counts.
    """
    body: dict[str, Any] = {
        "workflow_id": workflow_id,
        "computing_unit_id": computing_unit_id,
        "environment_version": environment_version,
        "name": name,
        "warehouse_id": warehouse_id,
    }
    if run_token:
        body["run_token"] = True
    read = partial(models.read, models.NewExecution)
    return Call("POST", "/v1/executions", read, body, _key(idempotency_key))


def execution(execution_id: int, *, workflow_id: int | None = None) -> Call[models.Execution]:
    """The row; with `workflow_id`, only if it is an execution of that workflow."""
    prefix = f"/v1/workflows/{workflow_id}" if workflow_id is not None else "/v1"
    return Call(
        "GET", f"{prefix}/executions/{execution_id}", partial(models.read, models.Execution)
    )


def update_execution(
    execution_id: int,
    *,
    status: str | int | None = None,
    result: str | None = None,
    log_location: str | Unset | None = UNSET,
    runtime_stats_uri: str | None = None,
    runtime_stats_bytes: int | None = None,
    name: str | None = None,
    bookmarked: bool | None = None,
    wait_s: int | None = None,
) -> WriteCall:
    """One write, applied or refused as a whole. A field that is None is not changed."""
    body: dict[str, Any] = {
        "status": status,
        "result": result,
        "runtime_stats_uri": runtime_stats_uri,
        "runtime_stats_bytes": runtime_stats_bytes,
        "name": name,
        "bookmarked": bookmarked,
    }
    body = {name: value for name, value in body.items() if value is not None}
    if log_location is not UNSET:
        body["log_location"] = log_location
    return _write("PATCH", _run(execution_id), body, wait_s)


def latest_execution(
    workflow_id: int, computing_unit_id: int | None = None
) -> Call[models.Execution | None]:
    """None if the workflow has not run (there)."""
    target = _with_query(
        f"/v1/workflows/{workflow_id}/executions/latest", computing_unit_id=computing_unit_id
    )
    read = partial(models.read, models.Execution)
    return Call("GET", target, read, absent=frozenset({"no-execution"}))


def executions(
    workflow_id: int,
    *,
    computing_unit_id: int | None = None,
    statuses: Iterable[str] = (),
    limit: int | None = None,
    before: int | None = None,
) -> Call[models.ExecutionPage]:
    target = _with_query(
        f"/v1/workflows/{workflow_id}/executions",
        computing_unit_id=computing_unit_id,
        status=",".join(statuses) or None,
        limit=limit,
        before=before,
    )
    return Call("GET", target, models.read_page)


def delete_executions(
    workflow_id: int, execution_ids: Iterable[int], *, idempotency_key: str | None = None
) -> Call[dict[int, list[str]]]:
    """All or none. Returns the URIs that each had; their tables are now unreferenced."""
    body = {"workflow_id": workflow_id, "execution_ids": list(execution_ids)}

    def read(document: Any) -> dict[int, list[str]]:
        return {row["execution_id"]: row["uris"] for row in document["deleted"]}

    return Call("POST", "/v1/executions/delete", read, body, _key(idempotency_key))


def bookmark_executions(
    workflow_id: int, execution_ids: Iterable[int], *, bookmarked: bool
) -> Call[list[int]]:
    """All or none. Returns the ids."""
    body = {
        "workflow_id": workflow_id,
        "execution_ids": list(execution_ids),
        "bookmarked": bookmarked,
    }
    read = itemgetter("execution_ids")
    return Call("POST", "/v1/executions/bookmark", read, body, _key(None))


# URIs ---------------------------------------------------------------------------------------------


def put_port_result(
    execution_id: int,
    global_port_id: str,
    uri: str,
    *,
    size_bytes: int | None = None,
    wait_s: int | None = None,
) -> WriteCall:
    body: dict[str, Any] = {"result_uri": uri, "result_bytes": size_bytes}
    return _write("PUT", _port(execution_id, global_port_id), body, wait_s)


def set_port_result_size(
    execution_id: int, global_port_id: str, size_bytes: int, *, wait_s: int | None = None
) -> WriteCall:
    body = {"result_bytes": size_bytes}
    return _write("PATCH", _port(execution_id, global_port_id), body, wait_s)


def put_console(
    execution_id: int,
    operator_id: str,
    uri: str,
    *,
    size_bytes: int | None = None,
    wait_s: int | None = None,
) -> WriteCall:
    body: dict[str, Any] = {"uri": uri, "bytes": size_bytes}
    return _write("PUT", _console(execution_id, operator_id), body, wait_s)


def set_console_size(
    execution_id: int, operator_id: str, size_bytes: int, *, wait_s: int | None = None
) -> WriteCall:
    return _write("PATCH", _console(execution_id, operator_id), {"bytes": size_bytes}, wait_s)


def result_uri(
    execution_id: int,
    operator_id: str,
    port_id: int = 0,
    *,
    internal: bool = False,
    wait_s: float | None = None,
) -> Call[models.ResultUri | None]:
    """None while there is no result; with `wait_s` the sidecar waits until there is one."""
    target = _with_query(
        f"{_run(execution_id)}/result-uri",
        operator_id=operator_id,
        port_id=port_id,
        internal="true" if internal else None,
        wait=wait_s,
    )
    read = partial(models.read, models.ResultUri)
    absent = frozenset({"result-uri-not-found"})
    return Call("GET", target, read, absent=absent, is_conditional=True)


def console(execution_id: int, operator_id: str) -> Call[models.StoredUri | None]:
    """None while the operator has no console."""
    read = partial(models.read, models.StoredUri)
    absent = frozenset({"console-not-found"})
    return Call("GET", _console(execution_id, operator_id), read, absent=absent)


def uris(execution_id: int) -> Call[models.Uris]:
    return Call("GET", f"{_run(execution_id)}/uris", models.read_uris, is_conditional=True)


def delete_uris(execution_id: int, *, wait_s: int | None = None) -> Call[models.RemovedUris]:
    """Raises `DeliveryTimeout` with a write id if it takes too long; the write stays durable."""
    return Call("DELETE", f"{_run(execution_id)}/uris", models.read_removed, None, _wait(wait_s))


# Workflows and units ------------------------------------------------------------------------------


def put_operator_costs(
    execution_id: int, seconds_by_operator: Mapping[str, float], *, wait_s: int | None = None
) -> WriteCall:
    body = {"operators": dict(seconds_by_operator)}
    return _write("PUT", f"{_run(execution_id)}/operator-costs", body, wait_s)


def operator_costs(workflow_id: int) -> Call[models.OperatorCosts | None]:
    """None if no run of the workflow has completed."""
    read = partial(models.read, models.OperatorCosts)
    target, absent = f"/v1/workflows/{workflow_id}/operator-costs", frozenset({"no-completed-run"})
    return Call("GET", target, read, absent=absent)


def latest_version(workflow_id: int) -> Call[int | None]:
    """None for a workflow without a version."""
    target = f"/v1/workflows/{workflow_id}/versions/latest"
    return Call("GET", target, itemgetter("version_id"), absent=frozenset({"no-version"}))


def export_plan(
    workflow_id: int,
    computing_unit_id: int,
    output_types: Mapping[str, str],
    *,
    file_name: str | None = None,
) -> Call[models.ExportPlan]:
    """`output_types` by operator (csv, arrow, html, data, parquet), each of port 0."""
    operators = [{"id": operator, "output_type": kind} for operator, kind in output_types.items()]
    body = {"computing_unit_id": computing_unit_id, "operators": operators, "file_name": file_name}
    return Call("POST", f"/v1/workflows/{workflow_id}/export-plan", models.read_plan, body)


def register_boot(computing_unit_id: int, boot_id: str) -> Call[list[int]]:
    """Registers a new master process. Returns the runs of earlier ones, which became FAILED."""
    target = f"/v1/computing-units/{computing_unit_id}/boots"
    return Call("POST", target, itemgetter("closed"), {"boot_id": boot_id}, _key(None))


def expired_executions(
    computing_unit_id: int, ttl_s: int, *, limit: int | None = None
) -> Call[list[models.Execution]]:
    target = _with_query(_expired(computing_unit_id), ttl_seconds=ttl_s, limit=limit)
    return Call("GET", target, models.read_executions)


def clear_expired(computing_unit_id: int, execution_ids: Iterable[int]) -> Call[list[int]]:
    """All or none. Returns the ids."""
    body, target = {"execution_ids": list(execution_ids)}, f"{_expired(computing_unit_id)}/clear"
    return Call("POST", target, itemgetter("cleared"), body, _key(None))


# Writes -------------------------------------------------------------------------------------------


def write(write_id: str) -> WriteCall:
    target = f"/v1/writes/{_segment(write_id)}"
    return Call("GET", target, partial(models.read, models.Write))


def writes(state: str | None = None) -> Call[list[models.Write]]:
    """The user's own writes, newest first; `state` is durable, committed or refused."""

    def read(document: Any) -> list[models.Write]:
        return [models.read(models.Write, row) for row in document["writes"]]

    return Call("GET", _with_query("/v1/writes", state=state), read)


def flush(timeout_s: float = 30) -> Call[None]:
    """Returns once every write is delivered. Raises `DeliveryTimeout`."""
    return Call("POST", _with_query("/v1/flush", timeout=timeout_s), lambda _: None)


def _write(method: str, target: str, body: Mapping[str, Any], wait_s: int | None) -> WriteCall:
    return Call(method, target, partial(models.read, models.Write), body, _wait(wait_s))


def _wait(wait_s: int | None) -> dict[str, str]:
    return {} if wait_s is None else {"Prefer": f"wait={wait_s}"}


def _key(given: str | None) -> dict[str, str]:
    return {"Idempotency-Key": given or secrets.token_hex(16)}


def _run(execution_id: int) -> str:
    return f"/v1/executions/{execution_id}"


def _port(execution_id: int, global_port_id: str) -> str:
    return f"{_run(execution_id)}/ports/{_segment(global_port_id)}"


def _console(execution_id: int, operator_id: str) -> str:
    return f"{_run(execution_id)}/operators/{_segment(operator_id)}/console"


def _segment(text: str) -> str:
    """One segment of a path; parentheses, commas and equals signs need no escape (RFC 3986)."""
    return quote(text, safe="(),=")


def _expired(computing_unit_id: int) -> str:
    return f"/v1/computing-units/{computing_unit_id}/expired-executions"


def _with_query(path: str, **parameters: Any) -> str:
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path
