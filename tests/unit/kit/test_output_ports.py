"""The stored id of a logical port, in whatever order the rows come."""

from itertools import permutations

import pytest

from kit.texera.uris import GlobalPortId, matches_external_port, resolve_output_port


def port(operator: str = "op", layer: str = "main", number: str = "0", **flags: str) -> str:
    internal, is_input = flags.get("internal", "false"), flags.get("input", "false")
    return (
        f"(logicalOpId={operator},layerName={layer},portId={number},"
        f"isInternal={internal},isInput={is_input})"
    )


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([port(layer="localAgg"), port(layer="globalAgg")], port(layer="globalAgg")),
        ([port(layer="build"), port(layer="probe")], port(layer="probe")),
        ([port(layer="partial"), port(layer="final")], port(layer="final")),
        ([port(layer="main"), port(layer="localAgg")], port(layer="main")),
        ([port(layer="zzz", input="true"), port(layer="build")], port(layer="build")),
        ([port(layer="b"), port(layer="a"), port(layer="c")], port(layer="c")),
        ([port(layer="build")], port(layer="build")),
        (
            [port(layer="globalAgg", internal="true"), port(layer="localAgg")],
            port(layer="localAgg"),
        ),
    ],
)
def test_the_output_layer_is_resolved_in_any_order(stored: list[str], expected: str) -> None:
    for order in permutations(stored):
        assert resolve_output_port(order, "op", 0, False) == expected


def test_an_unreadable_or_foreign_id_is_never_resolved() -> None:
    stored = [
        "",
        "no port",
        port(operator="op2"),
        port(number="1"),
        port(number="99999999999"),
        port(number="2147483648"),
        port(internal="yes"),
        port() + "x",
        port(operator="a,b"),
    ]

    assert resolve_output_port(stored, "op", 0, False) is None
    assert resolve_output_port(stored, "a,b", 0, False) is None


@pytest.mark.parametrize(
    ("stored", "operator"),
    [
        (port(operator="old_op_1"), "old_op_1"),
        (port(layer="1st_layer"), "op"),
        (port(number="00"), "op"),
        (port(internal="FALSE", input="False"), "op"),
        (port(operator="a b"), "a b"),
    ],
)
def test_an_id_of_an_earlier_release_is_resolved_and_refused_for_writing(
    stored: str, operator: str
) -> None:
    assert matches_external_port(stored, operator, 0, False)
    assert resolve_output_port([stored], operator, 0, False) == stored

    with pytest.raises(ValueError, match="logicalOpId"):
        GlobalPortId.parse(stored)


def test_a_valid_id_is_parsed_the_same_by_both_parsers() -> None:
    text = port(operator="op-1", layer="globalAgg", number="7", internal="true")

    assert GlobalPortId.parse_lenient(text) == GlobalPortId.parse(text)
    assert str(GlobalPortId.parse_lenient(text)) == text
