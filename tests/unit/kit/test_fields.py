"""What a request's fields may hold, and what is said of those that hold something else."""

from types import ModuleType
from typing import Annotated, Any

import msgspec
import pytest

import kit.http.problems
import kit.http.validation

KITS = [
    pytest.param(kit.http.validation, kit.http.problems.InvalidRequest, id="central"),
    pytest.param(kit.http.validation, kit.http.problems.InvalidRequest, id="sidecar"),
]


class Body(msgspec.Struct, forbid_unknown_fields=True):
    count: int
    seconds: dict[str, float] = {}
    ids: list[int] = []


class Envelope(msgspec.Struct):
    number: int
    members: list[msgspec.Raw]
    described: list[Annotated[msgspec.Raw, msgspec.Meta(description="anything")]] = []


@pytest.mark.parametrize(("kit", "refusal"), KITS)
def test_a_number_without_a_fraction_is_an_integer_however_written(
    kit: ModuleType, refusal: type[Exception]
) -> None:
    """JSON Schema calls 3.0 an integer, so the documents promise to take it."""
    body = kit.parse_body(
        b'{"count": 3.0, "seconds": {"a": 2.0}, "ids": [1, 2.0, 3e0]}', msgspec.json.Decoder(Body)
    )

    assert body == Body(3, {"a": 2.0}, [1, 2, 3])
    assert {type(number) for number in [body.count, *body.ids]} == {int}


@pytest.mark.parametrize(("kit", "refusal"), KITS)
def test_a_fraction_is_no_integer(kit: ModuleType, refusal: type[Exception]) -> None:
    with pytest.raises(refusal) as raised:
        kit.parse_body(b'{"count": 3.5, "ids": [1.0]}', msgspec.json.Decoder(Body))

    assert fields_of(raised.value) == ["count"]


@pytest.mark.parametrize(("kit", "refusal"), KITS)
def test_a_part_that_stays_raw_is_not_named_for_another_parts_fault(
    kit: ModuleType, refusal: type[Exception]
) -> None:
    with pytest.raises(refusal) as raised:
        kit.parse_body(
            b'{"number": "x", "members": [{}], "described": [{}]}', msgspec.json.Decoder(Envelope)
        )

    assert fields_of(raised.value) == ["number"]


def fields_of(refusal: Any) -> list[str]:
    return [error.field for error in refusal.errors]
