"""Entries: the writes that a batch carries, and how each is read alone.

A batch's envelope is read first and keeps its members whatever the wire version, so that a
replica can say of any batch that it does not speak its version. The entries stay raw bytes:
the digest is over exactly these. Then each entry is decoded by itself, so that one that this
release does not understand (another operation, a field it does not know, a value that
Postgres cannot hold) is refused alone and with its own reason. Only an entry that does not
say which it is (`seq`, `execution_id`) spoils its batch: its outcome could not be returned.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from central import problems
from kit.http.problems import BodyTooLarge, FieldError, InvalidRequest, Problem, invalid_field
from kit.http.validation import check_no_duplicates, convert_object, parse_typed
from kit.texera.fields import INT64_MAX, ByteCount, Id, Name, Text, is_valid_pg_text
from kit.texera.statuses import parse_status
from kit.texera.uris import GlobalPortId, check_operator_id

WIRE_VERSION = 1
MAX_BODY_BYTES = 8 * 1024 * 1024
"""What this service takes; sidecars send at most 4 MiB, which leaves room for a newer one."""

MAX_UNCOUNTED_COMMAS = 100_000
"""A full batch has a tenth; so many raw values take ten megabytes."""

MAX_REPAIRED_BYTES = 2 * 1024 * 1024
"""Twice a sidecar's largest write. A sidecar splits a batch that is refused as too large."""

Seconds = Annotated[float, msgspec.Meta(ge=0)]
Milliseconds = Annotated[int, msgspec.Meta(ge=-INT64_MAX, le=INT64_MAX)]


_INT64 = {"type": "integer", "minimum": -INT64_MAX, "maximum": INT64_MAX}
_ANY_ENTRY = {
    "type": "object",
    "description": "one write; what more it says is judged for itself and never spoils its batch",
    "required": ["seq", "execution_id"],
    "properties": {"op": {}, "seq": _INT64, "execution_id": _INT64},
}


Digest: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class BatchRequest(Struct, frozen=True):
    """The envelope of a batch. Its members outlive wire versions; unknown ones are ignored.

    With `withdraws` it has no entries, and takes its number from the batch of that digest: if that
    one was applied its response is returned, else it never will be.
    """

    wire: int
    epoch: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    batch: Annotated[int, msgspec.Meta(ge=1, le=INT64_MAX)]
    digest: Digest
    sent_at_ms: Milliseconds
    entries: list[Annotated[Raw, msgspec.Meta(extra_json_schema=_ANY_ENTRY)]]
    withdraws: Digest | None = None


class Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op"):
    """One write. `made_at_ms` is by the same clock as its batch's `sent_at_ms`."""

    seq: Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX)]
    execution_id: Id
    made_at_ms: Milliseconds


class UpdateExecution(Entry, frozen=True, tag="update_execution"):
    """Columns of the execution. None is not named; only `log_location` can be set to null."""

    status: str | int | None = None
    result: Text | None = None
    log_location: Text | UnsetType | None = UNSET
    runtime_stats_uri: Text | None = None
    runtime_stats_bytes: ByteCount | None = None
    name: Name | None = None
    bookmarked: bool | None = None


class PutPortResult(Entry, frozen=True, tag="put_port_result"):
    """Where the result of a port is stored."""

    global_port_id: Text
    result_uri: Text
    result_bytes: ByteCount | None = None


class SetPortResultBytes(Entry, frozen=True, tag="set_port_result_bytes"):
    """How large the result of a port has become."""

    global_port_id: Text
    result_bytes: ByteCount


class PutConsole(Entry, frozen=True, tag="put_console"):
    """Where the console messages of an operator are stored."""

    operator_id: Text
    uri: Text
    bytes: ByteCount | None = None


class SetConsoleBytes(Entry, frozen=True, tag="set_console_bytes"):
    """How large the console messages of an operator have become."""

    operator_id: Text
    bytes: ByteCount


class DeleteUris(Entry, frozen=True, tag="delete_uris"):
    """Removes the rows of both registries and answers what they held."""


class PutOperatorCosts(Entry, frozen=True, tag="put_operator_costs"):
    """The seconds each operator took, as known at completion."""

    operators: dict[str, Seconds]


AnyEntry: TypeAlias = (
    UpdateExecution
    | PutPortResult
    | SetPortResultBytes
    | PutConsole
    | SetConsoleBytes
    | DeleteUris
    | PutOperatorCosts
)


class InvalidEntry(Struct, frozen=True):
    """An entry that says which it is and cannot be read any further. Ids may be out of range."""

    seq: int
    execution_id: int
    op: str
    problem: Problem


class RemovedResult(Struct, frozen=True):
    """A port's row that was deleted."""

    global_port_id: str
    uri: str | None
    result_bytes: int | None


class RemovedConsole(Struct, frozen=True):
    """An operator's row that was deleted."""

    operator_id: str
    uri: str | None
    bytes: int | None


class Removed(Struct, frozen=True):
    """What `delete_uris` deleted: the caller drops the tables named here."""

    results: list[RemovedResult]
    console: list[RemovedConsole]


class Outcome(Struct, frozen=True, omit_defaults=True):
    """How an entry ended. A deferred one has changed nothing and is to be sent again."""

    seq: int
    outcome: Literal["applied", "refused", "deferred"]
    problem: dict[str, Any] | None = None
    removed: Removed | None = None


class BatchResponse(Struct, frozen=True):
    """The outcomes, in the order of the entries. A batch sent again gets the same bytes."""

    batch: int
    outcomes: list[Outcome]


class _Head(Struct):
    seq: int
    execution_id: int
    op: Any = None


class _Identity(Struct):
    seq: int
    execution_id: int


class _Identities(Struct):
    entries: list[_Identity]


# Pairs first, then what is left of surrogates, then every other escape, so that an escaped
# backslash before a `u` is passed over whole.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\.",
    re.DOTALL,
)
_BATCH = msgspec.json.Decoder(BatchRequest)
_IDENTITIES = msgspec.json.Decoder(_Identities)
_ENTRY = msgspec.json.Decoder(AnyEntry)
_HEAD = msgspec.json.Decoder(_Head)
_TYPES: dict[object, type[Entry]] = {kind.__struct_config__.tag: kind for kind in AnyEntry.__args__}


def decode_batch(body: bytes) -> BatchRequest:
    """The envelope, its entries as they stand in the body. Raises `InvalidRequest`.

    Entries are counted before they are decoded: a raw value of one byte takes a hundred. Each entry
    has a comma after it and one within, so few commas are few entries.

    A lone surrogate in one entry must not spoil the others: msgspec takes the whole body for
    malformed then. Only such a body is read with those escapes made harmless, of equal length,
    so that each entry is found again where it was.
    """
    try:
        return _decode_envelope(body)
    except InvalidRequest as error:
        if not _has_lone_surrogate(body):
            raise
        if len(body) > MAX_REPAIRED_BYTES:
            raise BodyTooLarge(
                f"a batch with lone surrogates may have at most {MAX_REPAIRED_BYTES} bytes"
            ) from error
        harmless = _without_lone_surrogates(body)
    batch = _decode_envelope(harmless)
    entries, place = [], 0
    for entry in batch.entries:
        place = harmless.index(bytes(entry), place)
        entries.append(Raw(body[place : place + len(bytes(entry))]))
        place += len(bytes(entry))
    return msgspec.structs.replace(batch, entries=entries)


def _decode_envelope(body: bytes) -> BatchRequest:
    if body.count(b",") > MAX_UNCOUNTED_COMMAS:
        parse_typed(body, _IDENTITIES)  # fails at the first entry that is no object
    batch = parse_typed(body, _BATCH)
    if batch.entries:
        first, last = bytes(batch.entries[0]), bytes(batch.entries[-1])
        body = body[: body.index(first)] + body[body.rindex(last) + len(last) :]
    check_no_duplicates(body, BatchRequest)
    return batch


def _has_lone_surrogate(text: bytes) -> bool:
    return b"\\u" in text and any(match["lone"] for match in _ESCAPE.finditer(text))


def _without_lone_surrogates(text: bytes) -> bytes:
    """JSON in which each lone surrogate is U+0000 instead, which no text of ours may hold."""
    if b"\\u" not in text:
        return text
    return _ESCAPE.sub(lambda match: rb"\u0000" if match["lone"] else match[0], text)


def digest_of(entries: Iterable[Raw]) -> str:
    """SHA-256 over each entry's bytes as they stand in the request, each followed by a newline."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(entry)
        digest.update(b"\n")
    return digest.hexdigest()


def decode_entries(entries: Iterable[Raw]) -> list[AnyEntry | InvalidEntry]:
    """Each entry, or why it cannot be read.

    Raises `InvalidRequest` for the whole batch if one does not even say which it is.
    """
    return [_decode_entry(index, raw) for index, raw in enumerate(entries)]


def check_entry(entry: AnyEntry) -> None:
    """Raises `InvalidRequest` for what the field types alone do not forbid."""
    if faults := list(_faults(entry)):
        detail = "; ".join(f"{fault.field}: {fault.expected}" for fault in faults)
        raise InvalidRequest(detail, errors=faults)


def op_of(entry: AnyEntry | InvalidEntry) -> str:
    return entry.op if isinstance(entry, InvalidEntry) else str(type(entry).__struct_config__.tag)


def _decode_entry(index: int, raw: Raw) -> AnyEntry | InvalidEntry:
    try:
        entry: AnyEntry = _ENTRY.decode(raw)
        check_entry(entry)
        return entry
    except (InvalidRequest, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _undecodable(index, raw)


def _undecodable(index: int, raw: Raw) -> InvalidEntry:
    raw = Raw(_without_lone_surrogates(bytes(raw)))
    try:
        head = _HEAD.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_field(f"entries[{index}]", f"an entry: {error}") from error
    op = head.op if isinstance(head.op, str) else ""
    return InvalidEntry(head.seq, head.execution_id, op, _reason(op, raw))


def _reason(op: str, raw: Raw) -> Problem:
    if op not in _TYPES:
        known = ", ".join(sorted(str(tag) for tag in _TYPES))
        return problems.UnknownOperation(f"op: expected one of {known}")
    try:
        # In two steps, because only a decoded object can be looked at field by field.
        check_entry(convert_object(msgspec.json.decode(raw), _TYPES[op]))  # type: ignore[arg-type]
        check_no_duplicates(bytes(raw), _TYPES[op])  # of two operations msgspec takes the first
    except InvalidRequest as problem:
        return problem
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return InvalidRequest(f"the entry is not valid JSON: {error}")
    raise AssertionError("an entry that was refused is readable")  # pragma: no cover


def _faults(entry: AnyEntry) -> Iterator[FieldError]:
    match entry:
        case UpdateExecution(status=status) if status is not None:
            try:
                parse_status(status)
            except ValueError:
                yield FieldError("status", "the name or the code of a status")
        case PutPortResult() | SetPortResultBytes():
            try:
                GlobalPortId.parse(entry.global_port_id)
            except ValueError as error:
                yield FieldError("global_port_id", str(error))
        case PutConsole() | SetConsoleBytes():
            try:
                check_operator_id(entry.operator_id)
            except ValueError as error:
                yield FieldError("operator_id", str(error))
        case PutOperatorCosts():
            for operator_id in entry.operators:
                try:
                    check_operator_id(operator_id)
                except ValueError as error:
                    name = operator_id if is_valid_pg_text(operator_id) else "?"
                    yield FieldError(f"operators.{name[:100]}", str(error))
