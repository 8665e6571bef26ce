"""The wire of a batch, frozen: both sides read and write the same bytes.

A sample of a released version never changes. A new version gets a new file beside the old one.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from central.auth_settings import FULL_BATCH_ENTRIES
from central.wire import entries as central
from sidecar.cache.pending import CachedCosts
from sidecar.spool import batches, schema
from sidecar.spool.batches import BATCH_MAX_BYTES, BATCH_MAX_ENTRIES
from sidecar.spool.entry import Batch, Entry, NewEntry, Priority
from sidecar.upstream.central_api import batch_body, outcomes_of
from sidecar.wire.v1 import LatestCosts

SAMPLES = Path(__file__).parent / "samples"
PORT = "(logicalOpId=op-1,layerName=main,portId=0,isInternal=false,isInput=false)"
URI = f"vfs:///wid/101/eid/1001/globalportid/{PORT}/result"
CONSOLE = "vfs:///wid/101/eid/1001/opid/op-1/consolemessages"
WRITES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("update_execution", {"status": "RUNNING", "name": "Grüße", "log_location": None}),
    ("put_port_result", {"global_port_id": PORT, "result_uri": URI, "result_bytes": 3_000_000_000}),
    ("set_port_result_bytes", {"global_port_id": PORT, "result_bytes": 7}),
    ("put_console", {"operator_id": "op-1", "uri": CONSOLE}),
    ("set_console_bytes", {"operator_id": "op-1", "bytes": 8}),
    ("delete_uris", {}),
    ("put_operator_costs", {"operators": {"op-1": 2.5}}),
)
SAMPLE_WRITES = {"batch-1.json": WRITES[:6], "batch-2.json": WRITES}


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes().rstrip(b"\n")


def written_by_the_sidecar(name: str, *, is_withdrawn: bool = False) -> bytes:
    """The sample's batch, stored, cut and put together as the sidecar does it."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.create(connection)
        for seq, (op, members) in enumerate(SAMPLE_WRITES[name], start=1):
            new = NewEntry(1001, 1, op, members, Priority.NORMAL)
            batches.insert(connection, seq, new, 1_790_000_000_000 + seq, None)
        batch = batches.cut(connection, [1001], 100, 1_000_000, lambda rows: None).batch
    assert batch is not None
    epoch = "0123456789abcdef" * 2
    frozen = Batch(epoch, batch.number, batch.digest, batch.entries, is_withdrawn)
    return batch_body(frozen, 1_790_000_001_000)


def batch_of(number: int, seqs: set[int], *, is_withdrawn: bool = False) -> Batch:
    entries = tuple(Entry(seq, 1001, 1, "op", Priority.NORMAL, None, b"{}") for seq in seqs)
    return Batch("0" * 32, number, "0" * 64, entries, is_withdrawn)


def test_every_operation_is_in_the_newest_sample() -> None:
    operations = {entry.__struct_config__.tag for entry in get_args(central.AnyEntry)}

    assert {op for op, _ in WRITES} == operations
    assert list(SAMPLE_WRITES.values())[-1] == WRITES


@pytest.mark.parametrize("name", SAMPLE_WRITES)
def test_the_sidecar_writes_the_sample(name: str) -> None:
    assert written_by_the_sidecar(name) == sample(name)


def test_the_sidecar_writes_the_sample_of_a_withdrawal() -> None:
    written = written_by_the_sidecar("batch-1.json", is_withdrawn=True)

    assert written == sample("withdrawal-1.json")


@pytest.mark.parametrize("name", SAMPLE_WRITES)
def test_central_reads_the_sample_and_finds_its_digest(name: str) -> None:
    batch = msgspec.json.decode(sample(name), type=central.BatchRequest)

    read = central.decode_entries(batch.entries)

    assert batch.wire == central.WIRE_VERSION
    assert central.digest_of(batch.entries) == batch.digest
    assert [central.op_of(entry) for entry in read] == [op for op, _ in SAMPLE_WRITES[name]]
    assert not [entry for entry in read if isinstance(entry, central.InvalidEntry)]


def test_central_reads_a_withdrawal_of_the_sample() -> None:
    withdrawn = msgspec.json.decode(sample("batch-1.json"), type=central.BatchRequest)

    withdrawal = msgspec.json.decode(sample("withdrawal-1.json"), type=central.BatchRequest)

    assert (withdrawal.epoch, withdrawal.batch) == (withdrawn.epoch, withdrawn.batch)
    assert withdrawal.withdraws == withdrawn.digest
    assert withdrawal.entries == []
    assert central.digest_of(withdrawal.entries) == withdrawal.digest


def test_the_answer_to_a_withdrawal_is_that_of_its_batch_or_an_empty_one() -> None:
    withdrawn = batch_of(1, {1, 2, 3, 6}, is_withdrawn=True)
    assert msgspec.json.encode(central.BatchResponse(1, [])) == sample("withdrawal-answer-1.json")

    assert outcomes_of(sample("withdrawal-answer-1.json"), withdrawn) == []
    assert [o.seq for o in outcomes_of(sample("batch-answer-1.json"), withdrawn)] == [1, 2, 3, 6]
    with pytest.raises(msgspec.DecodeError):
        outcomes_of(b'{"batch":1,"outcomes":[{"seq":1,"outcome":"applied"}]}', withdrawn)


def test_central_writes_the_sample_answer() -> None:
    problem = {"type": "late", "title": "Late", "status": 409, "detail": "it ended"}
    removed = central.Removed(
        [central.RemovedResult(PORT, URI, 7)], [central.RemovedConsole("op-1", CONSOLE, 8)]
    )
    response = central.BatchResponse(
        1,
        [
            central.Outcome(1, "applied"),
            central.Outcome(2, "refused", problem),
            central.Outcome(3, "deferred"),
            central.Outcome(6, "applied", removed=removed),
        ],
    )

    assert msgspec.json.encode(response) == sample("batch-answer-1.json")


def test_the_sidecar_reads_the_sample_answer() -> None:
    outcomes = outcomes_of(sample("batch-answer-1.json"), batch_of(1, {1, 2, 3, 6}))

    assert [(o.seq, o.outcome) for o in outcomes] == [
        (1, "applied"),
        (2, "refused"),
        (3, "deferred"),
        (6, "applied"),
    ]
    assert outcomes[1].problem is not None
    assert outcomes[1].problem["type"] == "late"
    assert outcomes[3].removed is not None
    assert outcomes[3].removed["results"][0]["uri"] == URI


def test_an_answer_of_a_newer_central_is_read() -> None:
    newer = b'{"batch":1,"outcomes":[{"seq":1,"outcome":"applied","colour":"red"}],"more":true}'

    assert [outcome.seq for outcome in outcomes_of(newer, batch_of(1, {1}))] == [1]


@pytest.mark.parametrize(
    "strange",
    [
        b"<html>sign in</html>",
        b"{}",
        b'{"batch":2,"outcomes":[{"seq":1,"outcome":"applied"}]}',
        b'{"batch":1,"outcomes":[]}',
        b'{"batch":1,"outcomes":[{"seq":2,"outcome":"applied"}]}',
        b'{"batch":1,"outcomes":[{"seq":1,"outcome":"perhaps"}]}',
    ],
)
def test_what_is_no_answer_to_the_batch_settles_nothing(strange: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        outcomes_of(strange, batch_of(1, {1}))


def test_every_central_takes_a_full_batch() -> None:
    """Its members are fixed before it is sent: one that is too long would be sent for ever."""
    assert BATCH_MAX_ENTRIES <= FULL_BATCH_ENTRIES
    assert BATCH_MAX_BYTES < central.MAX_BODY_BYTES


def test_of_a_member_that_an_entry_has_twice_both_services_read_the_last() -> None:
    """It is not refused (docs/security.md): what counts is that both make the same of it."""
    payload = (
        b'{"op":"put_operator_costs","seq":1,"execution_id":1001,"made_at_ms":1,'
        b'"operators":{"a":1.0},"operators":{"a":2.0,"a":3.0}}'
    )
    costs = LatestCosts(1001, None, None)

    [read] = central.decode_entries([msgspec.Raw(payload)])
    entry = Entry(1, 1001, 1, "put_operator_costs", Priority.NORMAL, None, payload)
    pending = CachedCosts(costs, 0).with_pending([entry])

    assert isinstance(read, central.PutOperatorCosts)
    assert read.operators == pending.costs.operators == {"a": 3.0}
