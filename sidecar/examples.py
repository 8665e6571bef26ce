"""An example for each call of the local API, as OpenAPI shows it.

They play in the sample world of `python -m dev up` (workflow 101, computing unit 201), in the
first run created there, 1001, whose operator op-1 has a result and a console.
"""

from collections.abc import Mapping
from typing import Any

from kit.http.openapi import Example

_WORKFLOW, _UNIT, _RUN = 101, 201, 1001
_PORT = "(logicalOpId=op-1,layerName=main,portId=0,isInternal=false,isInput=false)"
_BASE = f"vfs:///wid/{_WORKFLOW}/eid/{_RUN}"
_RESULT = f"{_BASE}/globalportid/{_PORT}/result"
_CONSOLE = f"{_BASE}/opid/op-1/consolemessages"
_STATS = f"{_BASE}/runtimestatistics"
_WRITE = "9f2c4e-7"

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
_DURABLE = {"write_id": _WRITE, "state": "durable"}
_RESULT_ROW = {"global_port_id": _PORT, "uri": _RESULT, "result_bytes": 1024}
_CONSOLE_ROW = {"operator_id": "op-1", "uri": _CONSOLE, "bytes": 256}
_SELECTION = {"workflow_id": _WORKFLOW, "execution_ids": [_RUN]}
_EXECUTION = {"execution_id": _RUN}
_PORT_OF_RUN = {"execution_id": _RUN, "global_port_id": _PORT}
_OPERATOR_OF_RUN = {"execution_id": _RUN, "operator_id": "op-1"}
_DROP_IN = "/api/internal/execution-metadata"


def _durable(parameters: Mapping[str, Any], body: Any) -> Example:
    return Example(parameters=parameters, body=body, status=202, answer=_DURABLE)


def _drop_in(body: Any) -> Example:
    answer = {"writeId": _WRITE, "state": "durable"}
    return Example(parameters={"eid": _RUN}, body=body, status=202, answer=answer)


EXAMPLES: Mapping[tuple[str, str], Example] = {
    ("POST", "/v1/executions"): Example(
        body={
            "workflow_id": _WORKFLOW,
            "computing_unit_id": _UNIT,
            "environment_version": '{"engine_version":"1.2"}',
            "name": "Monday's run",
        },
        status=201,
        answer={
            "execution_id": _RUN,
            "workflow_id": _WORKFLOW,
            "version_id": 402,
            "computing_unit_id": _UNIT,
            "user_id": 1,
            "status": "READY",
            "status_code": 0,
            "started_at": "2026-11-24T08:00:00.5Z",
        },
    ),
    ("GET", "/v1/executions/{execution_id}"): Example(parameters=_EXECUTION, answer=_ROW),
    ("PATCH", "/v1/executions/{execution_id}"): _durable(
        _EXECUTION, {"status": "RUNNING", "runtime_stats_uri": _STATS}
    ),
    ("GET", "/v1/workflows/{workflow_id}/executions/latest"): Example(
        parameters={"workflow_id": _WORKFLOW, "computing_unit_id": _UNIT}, answer=_ROW
    ),
    ("GET", "/v1/workflows/{workflow_id}/executions"): Example(
        parameters={"workflow_id": _WORKFLOW, "status": "RUNNING,PAUSED", "limit": 10},
        answer={"executions": [_ROW], "next_before": None},
    ),
    ("PUT", "/v1/executions/{execution_id}/ports/{global_port_id}"): _durable(
        _PORT_OF_RUN, {"result_uri": _RESULT}
    ),
    ("PATCH", "/v1/executions/{execution_id}/ports/{global_port_id}"): _durable(
        _PORT_OF_RUN, {"result_bytes": 3_000_000_000}
    ),
    ("PUT", "/v1/executions/{execution_id}/operators/{operator_id}/console"): _durable(
        _OPERATOR_OF_RUN, {"uri": _CONSOLE}
    ),
    ("PATCH", "/v1/executions/{execution_id}/operators/{operator_id}/console"): _durable(
        _OPERATOR_OF_RUN, {"bytes": 512}
    ),
    ("GET", "/v1/executions/{execution_id}/operators/{operator_id}/console"): Example(
        parameters=_OPERATOR_OF_RUN, answer={"uri": _CONSOLE, "bytes": 256}
    ),
    ("GET", "/v1/executions/{execution_id}/result-uri"): Example(
        parameters={
            "execution_id": _RUN,
            "operator_id": "op-1",
            "port_id": 0,
            "internal": False,
            "wait": 5,
        },
        answer={"uri": _RESULT, "global_port_id": _PORT, "result_bytes": 1024},
    ),
    ("GET", "/v1/executions/{execution_id}/uris"): Example(
        parameters=_EXECUTION,
        answer={
            "results": [_RESULT_ROW],
            "console": [_CONSOLE_ROW],
            "runtime_stats": {"uri": _STATS, "bytes": 4096},
        },
    ),
    ("DELETE", "/v1/executions/{execution_id}/uris"): Example(
        parameters=_EXECUTION, answer={"results": [_RESULT_ROW], "console": [_CONSOLE_ROW]}
    ),
    ("PUT", "/v1/executions/{execution_id}/operator-costs"): _durable(
        _EXECUTION, {"operators": {"op-1": 2.5, "HashJoin-1": 0.75}}
    ),
    ("GET", "/v1/workflows/{workflow_id}/operator-costs"): Example(
        parameters={"workflow_id": _WORKFLOW},
        answer={
            "execution_id": 502,
            "runtime_stats_uri": f"vfs:///wid/{_WORKFLOW}/eid/502/runtimestatistics",
            "operators": {"op-1": 2.5, "HashJoin-1": 0.75},
        },
    ),
    ("GET", "/v1/workflows/{workflow_id}/versions/latest"): Example(
        parameters={"workflow_id": _WORKFLOW},
        answer={"workflow_id": _WORKFLOW, "version_id": 402},
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
    ("POST", "/v1/executions/delete"): Example(
        body=_SELECTION,
        answer={"deleted": [{"execution_id": _RUN, "uris": [_RESULT, _CONSOLE, _STATS]}]},
    ),
    ("POST", "/v1/executions/bookmark"): Example(
        body=_SELECTION | {"bookmarked": True},
        answer={"execution_ids": [_RUN], "bookmarked": True},
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
    ("POST", "/v1/computing-units/{computing_unit_id}/boots"): Example(
        parameters={"computing_unit_id": _UNIT},
        body={"boot_id": "boot-2"},
        answer={"closed": [_RUN]},
    ),
    ("GET", "/v1/writes/{write_id}"): Example(
        parameters={"write_id": _WRITE},
        answer={
            "write_id": _WRITE,
            "state": "committed",
            "execution_id": _RUN,
            "op": "update_execution",
        },
    ),
    ("GET", "/v1/writes"): Example(
        parameters={"state": "committed", "limit": 1},
        answer={
            "writes": [
                {
                    "write_id": _WRITE,
                    "state": "committed",
                    "execution_id": _RUN,
                    "op": "update_execution",
                }
            ]
        },
    ),
    ("POST", "/v1/flush"): Example(
        parameters={"timeout": 30}, answer={"delivered": True, "waiting": 0}
    ),
    ("POST", f"{_DROP_IN}/create"): Example(
        body={
            "workflowId": _WORKFLOW,
            "uid": 1,
            "executionName": "",
            "environmentVersion": '{"engine_version":"1.2"}',
            "computingUnitId": _UNIT,
        },
        answer={"eid": _RUN},
    ),
    ("GET", f"{_DROP_IN}/latest"): Example(
        parameters={"wid": _WORKFLOW, "cuid": _UNIT}, answer={"eid": _RUN}
    ),
    ("PUT", f"{_DROP_IN}/{{eid}}/runtime-stats-uri"): _drop_in(
        {"workflowId": _WORKFLOW, "uri": _STATS}
    ),
    ("PUT", f"{_DROP_IN}/{{eid}}/status"): _drop_in({"status": 1}),
    ("POST", f"{_DROP_IN}/{{eid}}/operator-console"): _drop_in(
        {"operatorId": "op-1", "uri": _CONSOLE}
    ),
    ("POST", f"{_DROP_IN}/{{eid}}/port-result"): _drop_in({"globalPortId": _PORT, "uri": _RESULT}),
    ("GET", f"{_DROP_IN}/{{eid}}/port-result"): Example(
        parameters={"eid": _RUN, "opId": "op-1", "portId": 0, "internal": False},
        answer={"uri": _RESULT},
    ),
    ("GET", f"{_DROP_IN}/{{eid}}/port-results"): Example(
        parameters={"eid": _RUN}, answer={"uris": [_RESULT]}
    ),
}
