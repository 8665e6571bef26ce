"""Rows and entries to fold, with the values that a test does not care about filled in."""

from collections.abc import Sequence
from typing import Any

from central.domain.fold import Execution, FoldResult, WriterStatus, fold
from central.domain.uri_registry import UriRow
from central.wire.entries import AnyEntry, InvalidEntry, UpdateExecution
from kit.texera.uris import UriMinter

SOURCE = "source-a"
OTHER_SOURCE = "source-b"
EID = 7
WID = 3
PORT = "(logicalOpId=op,layerName=main,portId=0,isInternal=false,isInput=false)"
OPERATOR = "PythonUDF-1"
OWNER = UriMinter(WID, EID)
RESULT_URI = OWNER.result_uri(PORT)
CONSOLE_URI = OWNER.console_uri(OPERATOR)
SENT_AT_MS = 1_000_000_000


def execution(execution_id: int = EID, **known: Any) -> Execution:
    defaults: dict[str, Any] = {
        "writer_status": WriterStatus.WRITER,
        "user_id": 1,
        "workflow_id": WID,
    }
    return Execution(execution_id=execution_id, **(defaults | known))


def ended(code: int, by: str | None = SOURCE, *, provisionally: bool = False) -> Execution:
    return execution(status=code, ended_by=by, ended_provisionally=provisionally)


def with_result(uri: str | None, size_bytes: int | None = 0) -> Execution:
    return execution(results={PORT: UriRow(uri, size_bytes)})


def with_console(uri: str | None, size_bytes: int | None = 0) -> Execution:
    return execution(consoles={OPERATOR: UriRow(uri, size_bytes)})


def entry(kind: type[Any], /, *, seq: int = 1, age_ms: int = 0, **named: Any) -> Any:
    """An entry of EID, unless `execution_id` is named."""
    header = {"execution_id": EID, "seq": seq, "made_at_ms": SENT_AT_MS - age_ms}
    return kind(**(header | named))


def update(**named: Any) -> UpdateExecution:
    made: UpdateExecution = entry(UpdateExecution, **named)
    return made


def folded(
    executions: Execution | Sequence[Execution] | None,
    *entries: AnyEntry | InvalidEntry,
    source: str = SOURCE,
) -> FoldResult:
    rows = [executions] if isinstance(executions, Execution) else executions or []
    return fold(source, {row.execution_id: row for row in rows}, entries, SENT_AT_MS)


def outcomes(result: FoldResult) -> list[str]:
    """Per entry: applied, deferred, or the slug of the refusal."""
    return [v.problem.slug if v.problem else v.kind for v in result.outcomes]
