"""Parsing of requests, with every wrong field named.

msgspec stops at the first error, and a caller wants all of them. So a value that msgspec
refuses is converted again field by field; only a refused request pays for that.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar, get_args, get_origin

import msgspec
from multidict import CIMultiDictProxy

from kit.http.problems import FieldError, InvalidRequest, invalid_field
from kit.texera.fields import PRINTABLE_PATTERN, is_valid_pg_text
from kit.texera.uris import OPERATOR_ID_IN_WORDS, OPERATOR_ID_PATTERN

MAX_UNTYPED_BYTES = 64 * 1024
"""Of a body that is decoded without its type, to name its errors: lists of lists take forty times
their size."""

MAX_NAME_LENGTH = 100
"""Of a caller's own text in a problem."""

T = TypeVar("T")
StructT = TypeVar("StructT", bound=msgspec.Struct)

IDEMPOTENCY_KEY = "Idempotency-Key"
_KEY_MAX_LENGTH = 255
IDEMPOTENCY_KEY_SCHEMA = {"type": "string", "pattern": "^[ -~]+$", "maxLength": _KEY_MAX_LENGTH}
_DECIMAL = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)
_IN_WORDS = {
    f"`str` matching regex {PRINTABLE_PATTERN!r}": "text without control characters and without"
    " marks that change the direction of writing",
    f"`str` matching regex {OPERATOR_ID_PATTERN!r}": OPERATOR_ID_IN_WORDS,
}
"""What msgspec expects, where its own words are no help."""


def parse_parameters(
    values: Mapping[str, str], kind: type[StructT] | None, where: str
) -> StructT | None:
    """The struct of a path's or a query's strings; None if the call takes none.

    An integer has one spelling, its decimal digits: `01`, `+1` and `1.0` are none. Raises
    `InvalidRequest`.
    """
    if kind is None and not values:
        return None
    unknown = values.keys() - set(kind.__struct_encode_fields__ if kind else ())
    if kind and not kind.__struct_config__.forbid_unknown_fields:
        values = {name: value for name, value in values.items() if name not in unknown}
        unknown = set()
    errors = [FieldError(n, f"is no {where} parameter of this call") for n in sorted(unknown)]
    errors += [
        FieldError(n, "text that can be stored")
        for n, v in values.items()
        if not is_valid_pg_text(v)
    ]
    if kind and not errors:
        errors = [
            FieldError(name, "an integer in decimal digits")
            for name in _integer_fields(kind)
            if name in values and not _DECIMAL.fullmatch(values[name])
        ]
    if kind and not errors:
        try:
            return msgspec.convert(dict(values), kind, strict=False)
        except msgspec.ValidationError as error:
            errors = _field_errors(dict(values), kind, error, strict=False)
    raise _invalid(errors)


def single_header(headers: CIMultiDictProxy[str], name: str) -> str | None:
    """A header's value, if it is given. Raises `InvalidRequest` if it is repeated."""
    values = headers.getall(name, [])
    if len(values) > 1:
        raise invalid_field(name, "must not be repeated")
    return values[0] if values else None


def idempotency_key(headers: CIMultiDictProxy[str]) -> str | None:
    """Raises `InvalidRequest`."""
    key = single_header(headers, IDEMPOTENCY_KEY)
    if key is not None and not (
        0 < len(key) <= _KEY_MAX_LENGTH and key.isascii() and key.isprintable()
    ):
        raise invalid_field(IDEMPOTENCY_KEY, f"1 to {_KEY_MAX_LENGTH} printable characters")
    return key


@cache
def _integer_fields(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """The parameters that are integers, or absent."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)  # noqa: S101 (for the type checker)
    return tuple(field.encode_name for field in info.fields if _is_integer(field.type))


def _is_integer(kind: msgspec.inspect.Type) -> bool:
    match kind:
        case msgspec.inspect.IntType():
            return True
        case msgspec.inspect.Metadata(type=inner):
            return _is_integer(inner)
        case msgspec.inspect.UnionType(types=members):
            return all(_is_integer(m) or isinstance(m, msgspec.inspect.NoneType) for m in members)
    return False


def parse_body(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The decoded body. Raises `InvalidRequest` naming each field that is wrong, the first one of a
    large body."""
    value = parse_typed(body, decoder)
    check_no_duplicates(body, decoder.type)
    return value


def parse_typed(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """As `parse_body`; of a member that is given twice the last one counts."""
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            if len(body) > MAX_UNTYPED_BYTES:
                raise _invalid([_field_error(error, "")]) from error
            value = _coerce_integral_floats(msgspec.json.decode(body))
            with suppress(msgspec.ValidationError):
                return msgspec.convert(value, decoder.type)
            errors = _field_errors(value, decoder.type, error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    raise _invalid(errors)


def check_no_duplicates(body: bytes, kind: Any) -> None:
    """Raises `InvalidRequest` naming a member that one object of a valid `kind` has twice.

    Two parsers may take different ones of them (RFC 8259, section 4). An ordinary body is one
    object without escapes, in which each name of the type is found once at most: it is not parsed
    again.
    """
    if body.count(b":") < 2:
        return
    if body.count(b"{") == 1 and b"\\" not in body:
        for name in _quoted_names(kind):
            if body.count(name) > 1:  # as a name, or as a text of the same letters
                break
        else:
            return
    with suppress(ValueError, RecursionError):  # of members that the call ignores
        json.loads(body, object_pairs_hook=_unique_members)


@cache
def _quoted_names(kind: Any) -> tuple[bytes, ...]:
    names = getattr(kind, "__struct_encode_fields__", ())
    tag = kind.__struct_config__.tag_field if names else None
    return tuple(f'"{name}"'.encode() for name in (*names, *([tag] if tag else ())))


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in names if names.count(name) > 1)
        raise invalid_field(name[:MAX_NAME_LENGTH], "may be given once")
    return members


def _coerce_integral_floats(value: Any) -> Any:
    """The value with each 3.0 made a 3: JSON Schema, and so OpenAPI, calls both an integer."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _coerce_integral_floats(member) for name, member in value.items()}
        case list():
            return [_coerce_integral_floats(member) for member in value]
    return value


def convert_object(value: Any, kind: type[T]) -> T:
    """A decoded JSON value as `kind`. Raises `InvalidRequest` naming each field that is wrong."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _invalid(_field_errors(value, kind, error)) from error


def _invalid(errors: list[FieldError]) -> InvalidRequest:
    detail = "; ".join(f"{error.field}: {error.expected}" for error in errors)
    return InvalidRequest(detail, errors=errors)


def _field_errors(
    value: Any, kind: Any, error: msgspec.ValidationError, *, strict: bool = True
) -> list[FieldError]:
    """Every error of `value`; `error` is the one at which msgspec stopped."""
    if not (
        isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    ):
        return [_field_error(error, "")]
    errors = []
    known = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    if kind.__struct_config__.forbid_unknown_fields:
        tag = kind.__struct_config__.tag_field
        errors += [
            FieldError(name, "is no field of this call")
            for name in value
            if name not in known and name != tag
        ]
    for name, field in known.items():
        if name not in value:
            if field.required:
                errors.append(FieldError(name, "is required"))
            continue
        try:
            msgspec.convert(value[name], _without_raw(field.type), strict=strict)
        except msgspec.ValidationError as field_error:
            errors.append(_field_error(field_error, name))
    # Without an error of a single field it is the struct's __post_init__ that refused.
    return errors or [_field_error(error, "")]


def _without_raw(kind: Any) -> Any:
    """The type of a value that is decoded already: a list's Raw members are values, too."""
    if get_origin(kind) is not list:
        return kind
    [member] = get_args(kind)
    is_raw = msgspec.Raw in (member, *get_args(member))
    return list[Any] if is_raw else kind


def _field_error(error: msgspec.ValidationError, name: str) -> FieldError:
    """msgspec's error with the path that it found inside the field `name`."""
    expected, _, path = str(error).partition(" - at `$")
    inner = path.removesuffix("`").removeprefix(".") if path else ""
    field = f"{name}.{inner}" if name and inner and inner[0] != "[" else name + inner
    expected = expected.removeprefix("Expected ")
    return FieldError(field or "body", _IN_WORDS.get(expected, expected))
