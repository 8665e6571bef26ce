"""Bodies with wrong fields: which are accepted, and which fields the problem names."""

from typing import Annotated

import msgspec
import pytest

from kit.http.problems import InvalidRequest
from kit.http.validation import parse_body


class Body(msgspec.Struct, forbid_unknown_fields=True):
    count: int
    seconds: dict[str, float] = {}
    ids: list[int] = []


class Envelope(msgspec.Struct):
    number: int
    members: list[msgspec.Raw]
    described: list[Annotated[msgspec.Raw, msgspec.Meta(description="anything")]] = []


def test_an_integral_float_is_accepted_as_an_integer() -> None:
    """JSON Schema calls 3.0 an integer, so the documents promise to accept it."""
    body = parse_body(
        b'{"count": 3.0, "seconds": {"a": 2.0}, "ids": [1, 2.0, 3e0]}', msgspec.json.Decoder(Body)
    )

    assert body == Body(3, {"a": 2.0}, [1, 2, 3])
    assert {type(number) for number in [body.count, *body.ids]} == {int}


def test_a_fraction_is_refused_as_an_integer() -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_body(b'{"count": 3.5, "ids": [1.0]}', msgspec.json.Decoder(Body))

    assert fields_of(raised.value) == ["count"]


def test_a_raw_field_is_not_named_for_another_fields_error() -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_body(
            b'{"number": "x", "members": [{}], "described": [{}]}', msgspec.json.Decoder(Envelope)
        )

    assert fields_of(raised.value) == ["number"]


def fields_of(problem: InvalidRequest) -> list[str]:
    return [error.field for error in problem.errors]
