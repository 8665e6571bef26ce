"""Field types of requests, and the finding of everything that is wrong with one.

msgspec stops at the first fault. A caller wants all of them, so a request that was refused
is looked at again field by field; only the refusal pays for that.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from kit.http.problems import FieldError, InvalidRequest
from kit.texera.fields import is_valid_pg_text

T = TypeVar("T")
StructT = TypeVar("StructT", bound=msgspec.Struct)


def parse_parameters(
    values: Mapping[str, str], kind: type[StructT] | None, where: str
) -> StructT | None:
    """The struct described by strings (a path or a query); None if the call takes none.

    Raises `InvalidRequest`.
    """
    unknown = values.keys() - set(kind.__struct_encode_fields__ if kind else ())
    if kind and not kind.__struct_config__.forbid_unknown_fields:
        values = {name: value for name, value in values.items() if name not in unknown}
        unknown = set()
    faults = [FieldError(n, f"is no {where} parameter of this call") for n in sorted(unknown)]
    faults += [
        FieldError(n, "text that can be stored")
        for n, v in values.items()
        if not is_valid_pg_text(v)
    ]
    if not faults:
        if kind is None:
            return None
        try:
            return msgspec.convert(dict(values), kind, strict=False)
        except msgspec.ValidationError as error:
            faults = _faults(dict(values), kind, error, strict=False)
    raise _refusal(faults)


def parse_body(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The decoded body. Raises `InvalidRequest` naming each field that is wrong."""
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            value = _coerce_integral_floats(msgspec.json.decode(body))
            with suppress(msgspec.ValidationError):
                return msgspec.convert(value, decoder.type)
            faults = _faults(value, decoder.type, error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    raise _refusal(faults)


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
        raise _refusal(_faults(value, kind, error)) from error


def _refusal(faults: list[FieldError]) -> InvalidRequest:
    detail = "; ".join(f"{fault.field}: {fault.expected}" for fault in faults)
    return InvalidRequest(detail, errors=faults)


def _faults(
    value: Any, kind: Any, error: msgspec.ValidationError, *, strict: bool = True
) -> list[FieldError]:
    if not (
        isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    ):
        return [_fault(error, "")]
    faults = []
    known = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    if kind.__struct_config__.forbid_unknown_fields:
        tag = kind.__struct_config__.tag_field
        faults += [
            FieldError(name, "is no field of this call")
            for name in value
            if name not in known and name != tag
        ]
    for name, field in known.items():
        if name not in value:
            if field.required:
                faults.append(FieldError(name, "is required"))
            continue
        try:
            msgspec.convert(value[name], _as_decoded(field.type), strict=strict)
        except msgspec.ValidationError as field_error:
            faults.append(_fault(field_error, name))
    # A struct's own __post_init__ speaks about fields together: its words are all there is.
    return faults or [_fault(error, "")]


def _as_decoded(kind: Any) -> Any:
    """The type of a decoded value: nothing of it is raw any more."""
    if get_origin(kind) is not list:
        return kind
    [member] = get_args(kind)
    is_raw = msgspec.Raw in (member, *get_args(member))
    return list[Any] if is_raw else kind


def _fault(error: msgspec.ValidationError, name: str) -> FieldError:
    expected, _, path = str(error).partition(" - at `$")
    inner = path.removesuffix("`").removeprefix(".") if path else ""
    field = f"{name}.{inner}" if name and inner and inner[0] != "[" else name + inner
    return FieldError(field or "body", expected.removeprefix("Expected "))
