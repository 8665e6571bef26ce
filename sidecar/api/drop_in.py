"""The drop-in routes: what Texera's own proposal calls, over the writes and reads of `/v1`.

A client of `java.net.HttpURLConnection` without retries or keys of its own. It takes any 2xx
for done and 404 for absent, so a durable write is answered 202 with the write's id, which it
ignores. The run must be the token's own user's.
"""

from functools import partial
from typing import Any, TypeAlias

import msgspec

from kit.http.routing import Answer, Call, NoParameters, Route
from sidecar import problems, write_operations
from sidecar.api.durable import BodyValidator, EntryFactory, durable
from sidecar.api.executions import READ_PROBLEMS, WRITE_PROBLEMS
from sidecar.api.services import IDEMPOTENCY_HEADER, cached_response, idempotency_key, services
from sidecar.spool.bindings import Binding
from sidecar.spool.entry import NewEntry
from sidecar.upstream.client import CallContext
from sidecar.wire import drop_in, v1

WriteCall: TypeAlias = Call[CallContext, drop_in.EidPath, NoParameters, Any]


async def drop_in_create(
    call: Call[CallContext, NoParameters, NoParameters, drop_in.DropInCreate],
) -> Answer:
    writes, body = services(call.request).writes, call.body
    if body.uid is not None:
        user_id = await writes.user_of(call.caller)
        if body.uid != user_id:
            raise problems.UidMismatch(f"uid: the token's user is {user_id}, not {body.uid}")
    new = v1.NewExecutionRequest(
        body.workflow_id, body.computing_unit_id, body.environment_version, body.execution_name
    )
    created = await writes.create(
        msgspec.json.encode(new), idempotency_key(call.request), call.caller
    )
    return Answer(drop_in.DropInCreated(created.execution_id))


async def drop_in_put_runtime_stats_uri(call: WriteCall) -> Answer:
    execution_id = call.path.eid

    def prepare(body: drop_in.DropInRuntimeStatsUri) -> EntryFactory:
        def entry_of(binding: Binding, user_id: int) -> NewEntry:
            if binding.workflow_id != body.workflow_id:
                raise problems.ExecutionNotFound(
                    f"workflowId: execution {execution_id} is not one of workflow"
                    f" {body.workflow_id}"
                )
            members = {"runtime_stats_uri": body.uri}
            return write_operations.update_execution(members, binding, user_id)

        return entry_of

    return await _durable(call, prepare)


async def drop_in_put_status(call: WriteCall) -> Answer:
    def prepare(body: drop_in.DropInStatusChange) -> EntryFactory:
        members = {"status": write_operations.parse_status_field(body.status).value}
        return partial(write_operations.update_execution, members)

    return await _durable(call, prepare)


async def drop_in_post_operator_console(call: WriteCall) -> Answer:
    def prepare(body: drop_in.DropInOperatorConsole) -> EntryFactory:
        operator = write_operations.validate_operator(body.operator_id, "operatorId")
        return partial(write_operations.put_console, operator, v1.Console(body.uri))

    return await _durable(call, prepare)


async def drop_in_post_port_result(call: WriteCall) -> Answer:
    def prepare(body: drop_in.DropInPortResult) -> EntryFactory:
        port = write_operations.validate_port(body.global_port_id, "globalPortId")
        return partial(write_operations.put_port_result, port, v1.PortResult(body.uri))

    return await _durable(call, prepare)


async def drop_in_fetch_port_result(
    call: Call[CallContext, drop_in.EidPath, drop_in.PortResultQuery, None],
) -> Answer:
    query = v1.ResultUriQuery(call.query.op_id, call.query.port_id, call.query.internal)
    reads = services(call.request).reads
    found, seen = await reads.result_uri(call.path.eid, query, call.caller)
    return cached_response(call.request, drop_in.DropInUri(found.uri), seen)


async def drop_in_fetch_port_results(
    call: Call[CallContext, drop_in.EidPath, NoParameters, None],
) -> Answer:
    seen = await services(call.request).reads.uris(call.path.eid, call.caller)
    uris = [uri for _, (uri, _) in sorted(seen.value.results.items())]
    return cached_response(call.request, drop_in.DropInUriList(uris), seen)


async def drop_in_fetch_latest(
    call: Call[CallContext, NoParameters, drop_in.LatestQuery, None],
) -> Answer:
    query = call.query
    seen = await services(call.request).reads.latest(query.wid, query.cuid, call.caller)
    return cached_response(
        call.request, drop_in.DropInCreated(seen.value.execution.execution_id), seen
    )


async def _durable(call: WriteCall, prepare: BodyValidator) -> Answer:
    def answer_of(answer: v1.WriteAnswer) -> drop_in.DropInDurable:
        return drop_in.DropInDurable(answer.write_id, answer.state)

    return await durable(call, call.path.eid, prepare, answer_of)


_BASE = "/api/internal/execution-metadata"
_EXECUTION = _BASE + "/{eid}"


def _read(path: str, **parts: Any) -> Route:
    return Route(method="GET", path=path, tag="drop-in", **parts)


def _write(method: str, path: str, **parts: Any) -> Route:
    return Route(
        method=method,
        path=path,
        tag="drop-in",
        path_type=drop_in.EidPath,
        answers={202: drop_in.DropInDurable},
        **parts,
    )


ROUTES = (
    Route(
        method="POST",
        path=_BASE + "/create",
        handler=drop_in_create,
        summary="Create an execution of the token's user",
        tag="drop-in",
        body_type=drop_in.DropInCreate,
        answers={200: drop_in.DropInCreated},
        problems=(*READ_PROBLEMS, problems.UidMismatch),
        headers=IDEMPOTENCY_HEADER,
    ),
    _read(
        _BASE + "/latest",
        handler=drop_in_fetch_latest,
        summary="The newest execution of a workflow on a computing unit",
        query_type=drop_in.LatestQuery,
        answers={200: drop_in.DropInCreated},
        problems=READ_PROBLEMS,
    ),
    _write(
        "PUT",
        _EXECUTION + "/runtime-stats-uri",
        handler=drop_in_put_runtime_stats_uri,
        summary="ResourceCache where the runtime statistics are",
        body_type=drop_in.DropInRuntimeStatsUri,
        problems=(*WRITE_PROBLEMS, problems.ExecutionNotFound, problems.UriMismatch),
    ),
    _write(
        "PUT",
        _EXECUTION + "/status",
        handler=drop_in_put_status,
        summary="Change the status, by name or by Texera's code",
        body_type=drop_in.DropInStatusChange,
        problems=WRITE_PROBLEMS,
    ),
    _write(
        "POST",
        _EXECUTION + "/operator-console",
        handler=drop_in_post_operator_console,
        summary="ResourceCache where an operator's console messages are; the same again is fine",
        body_type=drop_in.DropInOperatorConsole,
        problems=(*WRITE_PROBLEMS, problems.UriMismatch),
    ),
    _write(
        "POST",
        _EXECUTION + "/port-result",
        handler=drop_in_post_port_result,
        summary="ResourceCache where a port's result is; the same again is fine",
        body_type=drop_in.DropInPortResult,
        problems=(*WRITE_PROBLEMS, problems.UriMismatch),
    ),
    _read(
        _EXECUTION + "/port-result",
        handler=drop_in_fetch_port_result,
        summary="The result URI of a logical output port",
        path_type=drop_in.EidPath,
        query_type=drop_in.PortResultQuery,
        answers={200: drop_in.DropInUri},
        problems=(*READ_PROBLEMS, problems.ResultUriNotFound),
    ),
    _read(
        _EXECUTION + "/port-results",
        handler=drop_in_fetch_port_results,
        summary="All result URIs of an execution",
        path_type=drop_in.EidPath,
        answers={200: drop_in.DropInUriList},
        problems=READ_PROBLEMS,
    ),
)
