"""Every part names the same columns of an execution: the list for whoever adds one."""

import inspect
from dataclasses import fields
from typing import Any

from central.domain.fold import Execution, ExecutionChange, WriterStatus, fold
from central.wire import calls as central
from central.wire.entries import Entry, UpdateExecution
from cu_metadata_client import calls as client
from cu_metadata_client import models
from kit.texera.uris import UriMinter
from sidecar.wire import v1

EID, WORKFLOW, SENT_AT_MS = 7, 3, 1_000_000
COLUMNS = set(v1.ExecutionChanges.__struct_fields__)


def test_a_patch_has_the_same_fields_everywhere() -> None:
    entry = set(UpdateExecution.__struct_fields__) - set(Entry.__struct_fields__)
    argument_names = set(inspect.signature(client.update_execution).parameters)

    assert set(central.ExecutionChanges.__struct_fields__) == COLUMNS
    assert entry == COLUMNS
    assert argument_names - {"execution_id", "wait_s"} == COLUMNS


def test_a_row_has_the_same_fields_everywhere() -> None:
    row = set(v1.Execution.__struct_fields__)

    assert row >= COLUMNS
    assert set(central.Execution.__struct_fields__) == row
    assert {field.name for field in fields(models.Execution)} == row


def test_each_field_of_an_entry_is_folded_into_its_column() -> None:
    values: dict[str, Any] = dict.fromkeys(COLUMNS, "new") | {
        "status": "COMPLETED",
        "runtime_stats_uri": UriMinter(WORKFLOW, EID).runtime_stats_uri(),
    }
    entry = UpdateExecution(seq=1, execution_id=EID, made_at_ms=SENT_AT_MS, **values)
    row = Execution(
        execution_id=EID, writer_status=WriterStatus.WRITER, user_id=1, workflow_id=WORKFLOW
    )

    change = fold("source", {EID: row}, [entry], SENT_AT_MS).changes.executions[EID]

    written = {name: getattr(change, name) for name in ExecutionChange.__struct_fields__}
    assert written == values | {"status": 3, "status_age_ms": 0}


def test_each_argument_of_the_client_is_sent() -> None:
    call = client.update_execution(EID, **dict.fromkeys(COLUMNS, "new"))  # type: ignore[arg-type]

    assert call.body == dict.fromkeys(COLUMNS, "new")
