"""An example for each call of central's API, as OpenAPI shows it.

They play in the sample world of `python -m dev up` (workflow 101, computing unit 201), in the
first run created there, 1001, whose operator op-1 has a result and a console. Each is signed
by the sidecar that run is bound to; the digest of the batch is over compact JSON.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from central.wire.entries import digest_of
from kit.http.openapi import Example

_WORKFLOW, _UNIT, _RUN = 101, 201, 1001
_PORT = "(logicalOpId=op-1,layerName=main,portId=0,isInternal=false,isInput=false)"
_BASE = f"vfs:///wid/{_WORKFLOW}/eid/{_RUN}"
_RESULT = f"{_BASE}/globalportid/{_PORT}/result"
_CONSOLE = f"{_BASE}/opid/op-1/consolemessages"
_STATS = f"{_BASE}/runtimestatistics"
_BOOT = "boot-2"

_NEW = {
    "execution_id": _RUN,
    "workflow_id": _WORKFLOW,
    "version_id": 402,
    "computing_unit_id": _UNIT,
    "user_id": 1,
    "status": "READY",
    "status_code": 0,
    "started_at": "2026-11-24T08:00:00.5Z",
    "warehouse": None,
}
_ROW: dict[str, Any] = {
    "execution_id": _RUN,
    "workflow_id": _WORKFLOW,
    "version_id": 402,
    "computing_unit_id": _UNIT,
    "user_id": 1,
    "status": "RUNNING",
    "status_code": 1,
    "result": None,
    "name": "Monday's run",
    "bookmarked": False,
    "environment_version": '{"engine_version":"1.2"}',
    "log_location": None,
    "runtime_stats_uri": _STATS,
    "runtime_stats_bytes": 4096,
    "started_at": "2026-11-24T08:00:00.5Z",
    "updated_at": "2026-11-24T08:00:02Z",
}
_OLD_ROW = _ROW | {
    "execution_id": 501,
    "version_id": 401,
    "status": "FAILED",
    "status_code": 4,
    "name": "Untitled Execution",
    "environment_version": '{"engine_version":"sample"}',
    "log_location": "file:///logs/501",
    "runtime_stats_uri": None,
    "runtime_stats_bytes": 0,
}
_COMMITTED = {"state": "committed"}
_RESULT_ROW = {"global_port_id": _PORT, "uri": _RESULT, "result_bytes": 1024}
_CONSOLE_ROW = {"operator_id": "op-1", "uri": _CONSOLE, "bytes": 256}
_SELECTION = {"workflow_id": _WORKFLOW, "execution_ids": [_RUN]}
_EXECUTION = {"execution_id": _RUN}
_PORT_OF_RUN = {"execution_id": _RUN, "global_port_id": _PORT}
_OPERATOR_OF_RUN = {"execution_id": _RUN, "operator_id": "op-1"}
_ENTRY = {
    "op": "update_execution",
    "seq": 1,
    "execution_id": _RUN,
    "made_at_ms": 1_795_000_000_000,
    "status": "RUNNING",
}


def _committed(parameters: Mapping[str, Any], body: Any) -> Example:
    return Example(parameters=parameters, body=body, answer=_COMMITTED)


EXAMPLES: Mapping[tuple[str, str], Example] = {
    ("POST", "/v1/executions"): Example(
        body={
            "workflow_id": _WORKFLOW,
            "computing_unit_id": _UNIT,
            "environment_version": '{"engine_version":"1.2"}',
            "name": "Monday's run",
        },
        status=201,
        answer=_NEW,
    ),
    ("GET", "/v1/executions/{execution_id}"): Example(parameters=_EXECUTION, answer=_ROW),
    ("GET", "/v1/workflows/{workflow_id}/executions/latest"): Example(
        parameters={"workflow_id": _WORKFLOW, "computing_unit_id": _UNIT}, answer=_ROW
    ),
    ("GET", "/v1/workflows/{workflow_id}/executions"): Example(
        parameters={"workflow_id": _WORKFLOW, "status": "RUNNING,PAUSED", "limit": 10},
        answer={"executions": [_ROW], "next_before": None},
    ),
    ("POST", "/v1/executions/delete"): Example(
        body=_SELECTION,
        answer={"deleted": [{"execution_id": _RUN, "uris": [_RESULT, _CONSOLE, _STATS]}]},
    ),
    ("POST", "/v1/executions/bookmark"): Example(
        body=_SELECTION | {"bookmarked": True},
        answer={"execution_ids": [_RUN], "bookmarked": True},
    ),
    ("GET", "/v1/workflows/{workflow_id}/versions/latest"): Example(
        parameters={"workflow_id": _WORKFLOW},
        answer={"workflow_id": _WORKFLOW, "version_id": 402},
    ),
    ("GET", "/v1/workflows/{workflow_id}/operator-costs"): Example(
        parameters={"workflow_id": _WORKFLOW},
        answer={
            "execution_id": 502,
            "runtime_stats_uri": f"vfs:///wid/{_WORKFLOW}/eid/502/runtimestatistics",
            "operators": {"op-1": 2.5, "HashJoin-1": 0.75},
        },
    ),
    ("GET", "/v1/workflows/{workflow_id}/executions/{execution_id}"): Example(
        parameters={"workflow_id": _WORKFLOW, "execution_id": _RUN}, answer=_ROW
    ),
    ("POST", "/v1/workflows/{workflow_id}/export-plan"): Example(
        parameters={"workflow_id": _WORKFLOW},
        body={
            "computing_unit_id": _UNIT,
            "operators": [{"id": "op-1", "output_type": "csv", "port_id": 0}],
        },
        answer={
            "execution_id": _RUN,
            "version_id": 402,
            "operators": [
                {
                    "id": "op-1",
                    "uri": _RESULT,
                    "file_name": "Sample-opop-1-v402-2026-11-24_08-00-03.csv",
                    "blocked": False,
                    "blocked_by": [],
                }
            ],
        },
    ),
    ("GET", "/v1/computing-units/{computing_unit_id}/expired-executions"): Example(
        parameters={"computing_unit_id": _UNIT, "ttl_seconds": 86_400, "limit": 100},
        answer={"executions": [_OLD_ROW]},
    ),
    ("POST", "/v1/computing-units/{computing_unit_id}/expired-executions/clear"): Example(
        parameters={"computing_unit_id": _UNIT},
        body={"execution_ids": [501]},
        answer={"cleared": [501]},
    ),
    ("GET", "/v1/executions/{execution_id}/uris"): Example(
        parameters=_EXECUTION,
        answer={
            "results": [_RESULT_ROW],
            "console": [_CONSOLE_ROW],
            "runtime_stats": {"uri": _STATS, "bytes": 4096},
        },
    ),
    ("GET", "/v1/executions/{execution_id}/result-uri"): Example(
        parameters={"execution_id": _RUN, "operator_id": "op-1", "port_id": 0, "internal": False},
        answer={"uri": _RESULT, "global_port_id": _PORT, "result_bytes": 1024},
    ),
    ("GET", "/v1/executions/{execution_id}/operators/{operator_id}/console"): Example(
        parameters=_OPERATOR_OF_RUN, answer={"uri": _CONSOLE, "bytes": 256}
    ),
    ("GET", "/v1/token"): Example(
        answer={"user_id": 1, "role": "REGULAR", "expires_at": "2026-11-24T20:00:00Z"}
    ),
    ("POST", "/v1/executions/{execution_id}/binding"): Example(
        parameters=_EXECUTION,
        body={},
        answer={
            "execution_id": _RUN,
            "workflow_id": _WORKFLOW,
            "computing_unit_id": _UNIT,
            "user_id": 1,
            "status": "RUNNING",
            "status_code": 1,
            "warehouse": None,
        },
    ),
    ("GET", "/v1/bindings"): Example(
        answer={
            "bindings": [
                {
                    "execution_id": _RUN,
                    "workflow_id": _WORKFLOW,
                    "computing_unit_id": _UNIT,
                    "user_id": 1,
                    "created_at": "2026-11-24T08:00:00.5Z",
                }
            ]
        }
    ),
    ("POST", "/v1/bindings/abandoned"): Example(
        body={"execution_ids": [_RUN], "reason": "unit-gone"}, answer={"closed": [_RUN]}
    ),
    ("PATCH", "/v1/executions/{execution_id}"): _committed(
        _EXECUTION, {"status": "PAUSED", "name": "Monday's run"}
    ),
    ("PUT", "/v1/executions/{execution_id}/ports/{global_port_id}"): _committed(
        _PORT_OF_RUN, {"result_uri": _RESULT}
    ),
    ("PATCH", "/v1/executions/{execution_id}/ports/{global_port_id}"): _committed(
        _PORT_OF_RUN, {"result_bytes": 3_000_000_000}
    ),
    ("PUT", "/v1/executions/{execution_id}/operators/{operator_id}/console"): _committed(
        _OPERATOR_OF_RUN, {"uri": _CONSOLE}
    ),
    ("PATCH", "/v1/executions/{execution_id}/operators/{operator_id}/console"): _committed(
        _OPERATOR_OF_RUN, {"bytes": 512}
    ),
    ("DELETE", "/v1/executions/{execution_id}/uris"): Example(
        parameters=_EXECUTION, answer={"results": [_RESULT_ROW], "console": [_CONSOLE_ROW]}
    ),
    ("PUT", "/v1/executions/{execution_id}/operator-costs"): _committed(
        _EXECUTION, {"operators": {"op-1": 2.5, "HashJoin-1": 0.75}}
    ),
    ("POST", "/v1/batches"): Example(
        body={
            "wire": 1,
            "epoch": "0123456789abcdef0123456789abcdef",
            "batch": 1,
            "digest": digest_of([msgspec.Raw(msgspec.json.encode(_ENTRY))]),
            "sent_at_ms": 1_795_000_000_020,
            "entries": [_ENTRY],
        },
        answer={"batch": 1, "outcomes": [{"seq": 1, "outcome": "applied"}]},
    ),
    ("POST", "/v1/lease-renewals"): Example(
        body={"execution_ids": [_RUN]}, answer={"lease_s": 90.0, "lost": []}
    ),
    ("POST", "/v1/computing-units/{computing_unit_id}/boots"): Example(
        parameters={"computing_unit_id": _UNIT},
        body={"boot_id": _BOOT},
        answer={"closed": [_RUN]},
    ),
}
