"""The wire of the calls between sidecar and central that are no batches, frozen.

What the sidecar sends is written by its own types and read by central's; what central answers
is written by central's and read by the sidecar's. Each side also writes back what it has read:
nothing it knows of is lost on the way. A sample of a released version never changes; a new
version gets a new file beside the old one.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from central import problems
from central.api.writes import OperatorCosts as CentralOperatorCosts
from central.app import openapi as central_openapi
from central.domain import export_rules
from central.wire import calls as central
from central.wire.entries import Removed, RemovedConsole, RemovedResult
from kit.http.problems import FieldError, InvalidRequest, Problem
from kit.texera.statuses import Status
from sidecar.cache.uri_registry import UriRegistry
from sidecar.problems import UpstreamProblem
from sidecar.server.app import openapi as sidecar_openapi
from sidecar.spool.bindings import Binding
from sidecar.upstream.client import CallContext, CentralResponse, problem_document
from sidecar.wire import forwarded, v1
from sidecar.writes import to_binding_and_grant

SAMPLES = Path(__file__).parent / "samples"
PORT = "(logicalOpId=op-1,layerName=main,portId=0,isInternal=false,isInput=false)"
RESULT = f"vfs:///wid/101/eid/1001/globalportid/{PORT}/result"
CONSOLE = "vfs:///wid/101/eid/1001/opid/op-1/consolemessages"
STATS = "vfs:///wid/101/eid/1001/runtimestatistics"
STARTED = datetime(2026, 11, 24, 8, 0, 0, 500_000, tzinfo=UTC)
UPDATED = datetime(2026, 11, 24, 8, 0, 2, tzinfo=UTC)

REQUESTS: dict[str, tuple[Any, Any]] = {
    "create-request-1": (
        v1.NewExecutionFields(101, 201, '{"engine_version":"1.2"}', "Grüße", 7),
        central.ExecutionRequest,
    ),
    "change-request-1": (
        v1.ExecutionChanges("KILLED", "r", None, STATS, 3_000_000_000, "Grüße", True),
        central.ExecutionChanges,
    ),
    "port-result-request-1": (v1.PortResult(RESULT, 3_000_000_000), central.PortResult),
    "port-result-size-request-1": (v1.PortResultSize(0), central.PortResultSize),
    "console-request-1": (v1.Console(CONSOLE, 256), central.Console),
    "console-size-request-1": (v1.ConsoleSize(2**63 - 1), central.ConsoleSize),
    "operator-costs-request-1": (v1.OperatorCosts({"op-1": 2.5}), CentralOperatorCosts),
    "delete-request-1": (forwarded.Selection(101, [1001, 1002]), central.Selection),
    "bookmark-request-1": (
        forwarded.BookmarkSelection(101, [1001], False),
        central.BookmarkSelection,
    ),
    "clear-request-1": (forwarded.ExpiredSelection([2**31 - 1]), central.ExpiredSelection),
    "export-plan-request-1": (
        forwarded.ExportRequest(201, [forwarded.ExportedOperator("op-1", "csv", 1)], "a.csv"),
        export_rules.ExportRequest,
    ),
}
ROW = central.Execution(
    1001, 101, 402, 201, 1, Status.KILLED, 5, "r", "Grüße", True, "e", None, STATS, 2**40,
    STARTED, UPDATED,
)  # fmt: skip
OLD_ROW = central.Execution(
    501, 101, 401, None, 1, Status.UNKNOWN, -1, None, "n", False, "e", "file:///l", None, 0,
    STARTED, None,
)  # fmt: skip
CLOSED_ROW = central.Execution(
    1002, 101, 402, 201, 1, Status.FAILED, 4, None, "n", False, "e", None, None, 0,
    STARTED, UPDATED, True,
)  # fmt: skip
ANSWERS: dict[str, tuple[Any, Any]] = {
    "create-answer-1": (
        central.NewExecution(1001, 101, 402, 201, 1, Status.READY, 0, STARTED, "user-1-mine"),
        v1.NewExecution,
    ),
    "execution-answer-1": (ROW, v1.Execution),
    "old-execution-answer-1": (OLD_ROW, v1.Execution),
    "closed-execution-answer-1": (CLOSED_ROW, v1.Execution),
    "executions-answer-1": (central.ExecutionPage([ROW, OLD_ROW], 501), v1.ExecutionPage),
    "uris-answer-1": (
        central.ExecutionUris(
            [central.PortUri(PORT, RESULT, 3_000_000_000)],
            [central.ConsoleUri("op-1", CONSOLE, 256)],
            central.StatsUri(STATS, 4096),
        ),
        v1.Uris,
    ),
    "no-uris-answer-1": (central.ExecutionUris([], [], None), v1.Uris),
    "result-uri-answer-1": (central.ResultUri(RESULT, PORT, 7), v1.ResultUri),
    "console-answer-1": (central.OperatorConsole(CONSOLE, 256), v1.ConsoleUri),
    "operator-costs-answer-1": (
        central.LatestCosts(1001, STATS, {"op-1": 2.5}),
        v1.LatestCosts,
    ),
    "no-operator-costs-answer-1": (central.LatestCosts(1001, None, None), v1.LatestCosts),
    "version-answer-1": (central.Version(101, 402), forwarded.Version),
    "removed-answer-1": (
        Removed([RemovedResult(PORT, RESULT, 7)], [RemovedConsole("op-1", CONSOLE, 8)]),
        v1.Removed,
    ),
    "delete-answer-1": (
        central.DeletedExecutions([central.DeletedExecution(1001, [RESULT, STATS])]),
        forwarded.DeletedExecutions,
    ),
    "bookmark-answer-1": (
        central.BookmarkedExecutions([1001], False),
        forwarded.BookmarkedExecutions,
    ),
    "expired-answer-1": (central.ExpiredExecutions([ROW]), forwarded.ExpiredExecutions),
    "clear-answer-1": (central.ClearedExecutions([1001]), forwarded.ClearedExecutions),
    "export-plan-answer-1": (
        export_rules.ExportPlan(
            1001,
            402,
            [
                export_rules.PlannedOperator("op-1", RESULT, "a.csv", False, []),
                export_rules.PlannedOperator("op-2", None, "b.csv", True, ["d (a@example.org)"]),
            ],
        ),
        forwarded.ExportPlan,
    ),
}
LEFT_OUT = {"create-answer-1": {"warehouse"}}
"""Fields that the sidecar does not pass on to the CU."""
BINDING = central.BoundExecution(1001, 101, 201, 1, Status.RUNNING, 1, "user-1-mine")
PROBLEMS: dict[str, Problem] = {
    "status-conflict-problem-1": problems.StatusConflict(
        "the execution ended as FAILED", winner=Status.FAILED
    ),
    "invalid-request-problem-1": InvalidRequest(
        "name: at most 128", errors=[FieldError("name", "at most 128")]
    ),
}
CENTRAL_DOCUMENT: dict[str, Any] = central_openapi()
SIDECAR_DOCUMENT: dict[str, Any] = sidecar_openapi()


def sample(name: str) -> bytes:
    return (SAMPLES / f"{name}.json").read_bytes().rstrip(b"\n")


def with_news(value: Any) -> Any:
    """As a newer release might send it: one member more in every object."""
    match value:
        case dict():
            return {key: with_news(member) for key, member in value.items()} | {"colour": "red"}
        case list():
            return [with_news(member) for member in value]
    return value


@pytest.mark.parametrize("name", REQUESTS)
def test_the_sidecar_writes_the_request_and_central_reads_all_of_it(name: str) -> None:
    value, kind = REQUESTS[name]

    assert msgspec.json.encode(value) == sample(name)
    read = msgspec.to_builtins(msgspec.json.decode(sample(name), type=kind))
    document = msgspec.json.decode(sample(name))
    assert {member: read[member] for member in document} == document


@pytest.mark.parametrize("name", REQUESTS)
def test_the_sidecar_reads_from_the_cu_what_it_sends_on(name: str) -> None:
    value, _ = REQUESTS[name]

    assert msgspec.json.decode(sample(name), type=type(value)) == value


@pytest.mark.parametrize("name", ANSWERS)
def test_central_writes_the_answer_and_the_sidecar_reads_all_of_it(name: str) -> None:
    value, kind = ANSWERS[name]

    assert msgspec.json.encode(value) == sample(name)
    read = msgspec.to_builtins(msgspec.json.decode(sample(name), type=kind))
    document = msgspec.json.decode(sample(name))
    assert read == {key: document[key] for key in document if key not in LEFT_OUT.get(name, ())}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_documents_describe_the_sample(name: str) -> None:
    value, kind = ANSWERS[name]

    for document, described in ((CENTRAL_DOCUMENT, type(value)), (SIDECAR_DOCUMENT, kind)):
        schema = {"$ref": f"#/components/schemas/{described.__name__}", **document}
        Draft202012Validator(schema).validate(msgspec.json.decode(sample(name)))


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_of_a_newer_central_is_read(name: str) -> None:
    _, kind = ANSWERS[name]
    document = msgspec.json.decode(sample(name))
    if name == "operator-costs-answer-1":
        newer = document | {"colour": "red"}  # the map's keys are operators, not members
    else:
        newer = with_news(document)

    read = msgspec.json.decode(msgspec.json.encode(newer), type=kind)

    assert read == msgspec.json.decode(sample(name), type=kind)


@pytest.mark.parametrize("name", ["uris-answer-1", "no-uris-answer-1"])
def test_the_sidecar_remembers_the_registry_as_it_was_answered(name: str) -> None:
    document = msgspec.json.decode(sample(name))

    assert UriRegistry.from_json(msgspec.json.encode(document)).to_json() == document


@pytest.mark.parametrize(
    ("name", "created_here"), [("create-answer-1", True), ("binding-answer-1", False)]
)
def test_the_sidecar_keeps_the_binding_as_it_was_answered(name: str, created_here: bool) -> None:
    reply = CentralResponse(200, sample(name), user_id=1, token_expires_at=1_800_000_000)

    binding, grant = to_binding_and_grant(
        msgspec.convert(with_news(msgspec.json.decode(reply.body)), v1.BoundExecution),
        reply,
        CallContext("t"),
        created_here=created_here,
    )

    assert binding == Binding(1001, 101, 201, 1, "user-1-mine", created_here)
    assert (grant.execution_id, grant.user_id, grant.expires_at) == (1001, 1, 1_800_000_000)


def test_central_writes_the_binding() -> None:
    assert msgspec.json.encode(BINDING) == sample("binding-answer-1")


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_is_passed_on_as_central_wrote_it(name: str) -> None:
    problem = PROBLEMS[name]

    written = msgspec.json.encode(problem.document() | {"request_id": "r-1"})
    read = problem_document("application/problem+json; charset=utf-8", sample(name))

    assert written == sample(name)
    assert read is not None
    passed_on = UpstreamProblem(read, {})
    assert (passed_on.slug, passed_on.status) == (problem.slug, problem.status)
    assert passed_on.document() == problem.document()  # with a request id of the sidecar's own
