"""Entries: read alone, refused alone, and the digest over their exact bytes."""

import hashlib
import json
from typing import Any

import msgspec
import pytest

from central.wire.entries import (
    AnyEntry,
    BatchRequest,
    InvalidEntry,
    PutPortResult,
    UpdateExecution,
    decode_batch,
    decode_entries,
    digest_of,
)
from kit.http.problems import InvalidRequest
from tests.unit.central.folding import PORT, RESULT_URI

HEADER: dict[str, Any] = {"seq": 5, "execution_id": 7, "made_at_ms": 11}


def decoded(*entries: Any) -> list[AnyEntry | InvalidEntry]:
    return decode_entries(
        msgspec.Raw(entry if isinstance(entry, bytes) else json.dumps(entry).encode())
        for entry in entries
    )


def refusal(op: str, **fields: Any) -> tuple[str, list[str]]:
    """The slug and the fields named by the refusal of one entry."""
    (entry,) = decoded(HEADER | {"op": op} | fields)
    assert isinstance(entry, InvalidEntry)
    assert (entry.seq, entry.execution_id) == (5, 7)
    return entry.problem.slug, [error.field for error in entry.problem.errors]


def test_the_digest_is_over_the_bytes_as_they_stand() -> None:
    first, second = b'{ "seq" :1}', b'{"seq":2.0,"\\u0061":[ ]}'
    body = (
        b'{"wire":1,"epoch":"%s","batch":1,"digest":"%s","sent_at_ms":1,"entries":[ %s\n,%s]}'
        % (
            b"a" * 32,
            b"0" * 64,
            first,
            second,
        )
    )

    batch = msgspec.json.decode(body, type=BatchRequest)

    expected = hashlib.sha256(first + b"\n" + second + b"\n").hexdigest()
    assert digest_of(batch.entries) == expected


def test_an_envelope_may_have_members_of_a_later_version() -> None:
    body = {"wire": 2, "epoch": "0" * 32, "batch": 1, "digest": "0" * 64, "sent_at_ms": 1}

    batch = msgspec.json.decode(
        json.dumps(body | {"entries": [], "hint": "new"}).encode(), type=BatchRequest
    )

    assert batch.wire == 2


def test_an_entry_becomes_its_operation() -> None:
    update, put = decoded(
        HEADER | {"op": "update_execution", "status": "running", "log_location": None},
        HEADER | {"op": "put_port_result", "global_port_id": PORT, "result_uri": RESULT_URI},
    )

    assert update == UpdateExecution(**HEADER, status="running", log_location=None)
    assert put == PutPortResult(**HEADER, global_port_id=PORT, result_uri=RESULT_URI)


def test_null_is_absent_but_for_log_location() -> None:
    nulls = dict.fromkeys(["status", "result", "name", "bookmarked", "runtime_stats_uri"])

    (absent,) = decoded(HEADER | {"op": "update_execution"} | nulls)

    assert absent == UpdateExecution(**HEADER)
    assert isinstance(absent, UpdateExecution)
    assert absent.log_location is msgspec.UNSET


def test_an_unknown_operation_is_refused_alone() -> None:
    assert refusal("fly") == ("unknown-operation", [])
    assert refusal("") == ("unknown-operation", [])
    missing, wrong, good = decoded(HEADER, HEADER | {"op": 4}, HEADER | {"op": "delete_uris"})
    assert isinstance(missing, InvalidEntry)
    assert isinstance(wrong, InvalidEntry)
    assert missing.problem.slug == wrong.problem.slug == "unknown-operation"
    assert not isinstance(good, InvalidEntry)


@pytest.mark.parametrize("second", ['"op"', '"o\\u0070"'])
def test_an_entry_of_two_operations_is_refused_alone(second: str) -> None:
    """msgspec takes the first for the operation, and a parser of objects the last."""
    twice = '{"op":"delete_uris","seq":5,"execution_id":7,"made_at_ms":11,%s:"update_execution"}'

    entry, good = decoded((twice % second).encode(), HEADER | {"op": "delete_uris"})

    assert isinstance(entry, InvalidEntry)
    assert [error.field for error in entry.problem.errors] == ["op"]
    assert not isinstance(good, InvalidEntry)


def test_every_wrong_field_is_named() -> None:
    slug, fields = refusal("update_execution", status=[], name="x" * 129, wings=2)

    assert slug == "invalid-request"
    assert sorted(fields) == ["name", "status", "wings"]


@pytest.mark.parametrize(
    ("op", "fields", "wrong"),
    [
        ("update_execution", {"status": "DONE"}, "status"),
        ("update_execution", {"status": 9}, "status"),
        ("update_execution", {"status": True}, "status"),
        ("update_execution", {"result": "a\x00b"}, "result"),
        ("update_execution", {"name": "a\x00b"}, "name"),
        ("update_execution", {"log_location": "\x00"}, "log_location"),
        ("update_execution", {"runtime_stats_bytes": -1}, "runtime_stats_bytes"),
        ("update_execution", {"runtime_stats_bytes": 2**63}, "runtime_stats_bytes"),
        ("put_port_result", {"global_port_id": "p", "result_uri": "u"}, "global_port_id"),
        ("put_port_result", {"global_port_id": PORT}, "result_uri"),
        (
            "set_port_result_bytes",
            {"global_port_id": "x" * 201, "result_bytes": 1},
            "global_port_id",
        ),
        ("put_console", {"operator_id": "o" * 101, "uri": "u"}, "operator_id"),
        ("put_console", {"operator_id": "a,b", "uri": "u"}, "operator_id"),
        ("set_console_bytes", {"operator_id": "", "bytes": 1}, "operator_id"),
        ("put_operator_costs", {"operators": {"a": -1}}, "operators[...]"),
        ("put_operator_costs", {"operators": {"a\x00": 1}}, "operators.?"),
        ("delete_uris", {"execution_id": 7, "really": True}, "really"),
    ],
)
def test_what_cannot_be_stored_is_refused_alone(op: str, fields: Any, wrong: str) -> None:
    assert refusal(op, **fields) == ("invalid-request", [wrong])


@pytest.mark.parametrize("execution_id", [0, -4, 2**31, 2**70])
def test_an_id_that_no_row_can_have_is_refused_alone(execution_id: int) -> None:
    (entry,) = decoded(HEADER | {"op": "delete_uris", "execution_id": execution_id})

    assert isinstance(entry, InvalidEntry)
    assert entry.execution_id == execution_id
    assert [error.field for error in entry.problem.errors] == ["execution_id"]


def with_text(literal: bytes) -> bytes:
    return (
        b'{"seq":5,"execution_id":7,"made_at_ms":1,"op":"update_execution","result":%s}' % literal
    )


def test_an_entry_whose_text_is_not_utf8_is_refused_alone() -> None:
    (entry,) = decoded(with_text(b'"\xff"'))

    assert isinstance(entry, InvalidEntry)
    assert entry.problem.slug == "invalid-request"


LONE = [
    b'"\\ud800"', b'"\\uDFFF"', b'"a\\ud83d"', b'"\\ude00\\ud83d"', b'"\\ud800\\u0041"',
    b'"\\\\\\ud800"', b'"\\ud83d\\ude00\\ud83d"', b'"\\ud800\\ud800\\udc00"',
]  # fmt: skip
FINE = [b'"\\ud83d\\ude00"', b'"\\\\ud800"', b'"\\\\\\\\udc00"', b'"\\uD83D\\uDE00x"', b'"\\u00e9"']


def body_of(*entries: bytes) -> bytes:
    head = {"wire": 1, "epoch": "a" * 32, "batch": 1, "digest": "b" * 64, "sent_at_ms": 0}
    return json.dumps(head).encode()[:-1] + b', "entries": [' + b", ".join(entries) + b"]}"


@pytest.mark.parametrize("literal", LONE)
def test_a_lone_surrogate_is_refused_alone_and_its_field_named(literal: bytes) -> None:
    texts = [with_text(b'"before"'), with_text(literal), with_text(FINE[0]), with_text(literal)]

    batch = decode_batch(body_of(*texts))
    first, lone, fine, again = decode_entries(batch.entries)

    assert [bytes(entry) for entry in batch.entries] == texts  # what the digest is over
    assert isinstance(lone, InvalidEntry)
    assert isinstance(again, InvalidEntry)
    assert (lone.seq, lone.execution_id, lone.op) == (5, 7, "update_execution")
    assert [error.field for error in lone.problem.errors] == ["result"]
    assert not isinstance(first, InvalidEntry)
    assert isinstance(fine, UpdateExecution)
    assert fine.result == "\U0001f600"


@pytest.mark.parametrize("literal", FINE)
def test_what_only_looks_like_one_is_text(literal: bytes) -> None:
    entry, _ = decode_entries(decode_batch(body_of(with_text(literal), with_text(LONE[0]))).entries)

    assert isinstance(entry, UpdateExecution)
    assert entry.result == json.loads(literal)


@pytest.mark.parametrize("literal", [b'"\\q"', b'"\\u12"', b'"\x01"', b'"', b""])
def test_what_is_no_json_spoils_its_batch(literal: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_batch(body_of(with_text(literal)))


@pytest.mark.parametrize(
    "broken",
    [b"[]", b"null", b"{}", b'{"seq":1}', b'{"execution_id":1}', b'{"seq":"1","execution_id":2}'],
)
def test_an_entry_that_does_not_say_which_it_is_spoils_its_batch(broken: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"entries\[1\]"):
        decoded(HEADER | {"op": "delete_uris"}, broken)
