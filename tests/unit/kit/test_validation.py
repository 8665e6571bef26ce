"""Bodies with wrong fields: which are accepted, and which fields the problem names."""

from typing import Annotated

import msgspec
import pytest

from kit.http.problems import InvalidRequest
from kit.http.validation import MAX_UNTYPED_BYTES, parse_body, parse_parameters
from kit.texera.fields import Id, Name


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


class Path(msgspec.Struct, forbid_unknown_fields=True):
    execution_id: Id
    limit: Annotated[int, msgspec.Meta(ge=-5, le=500)] | None = None
    wait: float = 0.0


@pytest.mark.parametrize("name", ["execution_id", "limit"])
@pytest.mark.parametrize(
    "text",
    [
        "11.0",
        "1.1e1",
        "+11",
        "011",
        "00",
        "-0011",
        "1_1",
        "0x1",
        " 11",
        "11 ",
        "\u0661",
        "",
        "11\n",
    ],
)
def test_an_integer_has_one_spelling(name: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_parameters({"execution_id": "11", name: text}, Path, "path")

    assert fields_of(raised.value) == [name]
    assert raised.value.errors[0].expected == "an integer in decimal digits"


def test_decimal_integers_and_any_numbers_are_parsed() -> None:
    parsed = parse_parameters({"execution_id": "11", "limit": "-5", "wait": "1.50"}, Path, "path")

    assert parsed == Path(11, -5, 1.5)


class Named(msgspec.Struct):
    name: Name


@pytest.mark.parametrize(
    "name",
    ["a\u202eb", "a\u2066b", "\u200f", "a\u061c", "a\x00", "a\x07b", "a\x85", "a\n", "a\u2028"],
)
def test_a_name_that_is_shown_as_another_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_body(msgspec.json.encode({"name": name}), msgspec.json.Decoder(Named))

    assert fields_of(raised.value) == ["name"]
    assert raised.value.errors[0].expected.startswith("text without control characters")


@pytest.mark.parametrize("name", ["", "größe", "汉字 \U0001f600", "שלום", "a\u200db", "a%2e/\\"])
def test_a_name_in_any_script_is_accepted(name: str) -> None:
    assert msgspec.convert({"name": name}, Named).name == name


def fields_of(problem: InvalidRequest) -> list[str]:
    return [error.field for error in problem.errors]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"count": 1, "count": 2}', "count"),
        (b'{"count" :1,"ids":[],"count" :1}', "count"),
        (b'{"count": 1, "co\\u0075nt": 2}', "count"),
        (b'{"count": 1, "seconds": {"a:": 1, "a:": 2}}', "a:"),
        (b'{"count": 1, "seconds": {"a": 1, "\\u0061": 2}}', "a"),
    ],
)
def test_a_member_that_is_given_twice_is_refused_by_name(body: bytes, named: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_body(body, msgspec.json.Decoder(Body))

    assert fields_of(raised.value) == [named]


@pytest.mark.parametrize(
    "body",
    [
        b'{"count": 1, "seconds": {"count": 2.0}}',
        b'{"count": 1, "seconds": {"ids": 1.0, "\\"": 2.0}, "ids": []}',
    ],
)
def test_a_name_of_two_objects_is_no_duplicate(body: bytes) -> None:
    assert parse_body(body, msgspec.json.Decoder(Body)).count == 1


def test_of_a_large_body_the_first_wrong_field_is_named() -> None:
    body = b'{"count": 1, "ids": [' + b"[],".join([b""] * MAX_UNTYPED_BYTES) + b'1], "x": 1}'

    with pytest.raises(InvalidRequest) as raised:
        parse_body(body, msgspec.json.Decoder(Body))

    assert fields_of(raised.value) == ["ids[0]"]
