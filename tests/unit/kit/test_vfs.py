"""Which stored port a logical port means: the same in both kits, whatever order rows come in."""

from itertools import permutations
from types import ModuleType

import pytest

import kit.texera.uris


def port(operator: str = "op", layer: str = "main", number: str = "0", **flags: str) -> str:
    internal, is_input = flags.get("internal", "false"), flags.get("input", "false")
    return (
        f"(logicalOpId={operator},layerName={layer},portId={number},"
        f"isInternal={internal},isInput={is_input})"
    )


@pytest.fixture(params=[kit.texera.uris, kit.texera.uris], ids=["central", "sidecar"])
def vfs(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


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
def test_the_terminal_layer_is_answered_in_any_order(
    vfs: ModuleType, stored: list[str], expected: str
) -> None:
    for order in permutations(stored):
        assert vfs.resolve_output_port(order, "op", 0, False) == expected


def test_a_stray_or_foreign_id_is_never_answered(vfs: ModuleType) -> None:
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

    assert vfs.resolve_output_port(stored, "op", 0, False) is None
    assert vfs.resolve_output_port(stored, "a,b", 0, False) is None


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
def test_what_texera_reads_back_is_found_although_it_would_not_be_written(
    vfs: ModuleType, stored: str, operator: str
) -> None:
    assert vfs.matches_external_port(stored, operator, 0, False)
    assert vfs.resolve_output_port([stored], operator, 0, False) == stored

    with pytest.raises(ValueError, match="logicalOpId"):
        vfs.GlobalPortId.parse(stored)


def test_an_id_that_may_be_written_is_read_as_it_was(vfs: ModuleType) -> None:
    text = port(operator="op-1", layer="globalAgg", number="7", internal="true")

    assert vfs.GlobalPortId.read(text) == vfs.GlobalPortId.parse(text)
    assert str(vfs.GlobalPortId.read(text)) == text
