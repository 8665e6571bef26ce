"""A URI that is let through is, to Texera, the row's own; every trick to name another is not.

Texera's clean-up drops whatever table a stored URI names, so this is what keeps a user's code
from having another user's table dropped.
"""

from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kit.texera.uris
from kit.texera.uris import UriMinter, check_operator_id, is_same_uri
from tests.unit.kit.texera_reader import Read, Unreadable, read
from tests.unit.kit.tricks import tricks

PORT = "(logicalOpId=op-1,layerName=main,portId=0,isInternal=false,isInput=false)"
OTHER_PORT = PORT.replace("op-1", "op-2")
OURS = UriMinter(7, 11)
MINTED = {
    "result": OURS.result_uri(PORT),
    "console": OURS.console_uri("op-1"),
    "stats": OURS.runtime_stats_uri(),
}


@pytest.fixture(params=[kit.texera.uris, kit.texera.uris], ids=["central", "sidecar"])
def vfs(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


CASES = [
    pytest.param(kind, text, id=f"{kind}: {name}")
    for kind, minted in MINTED.items()
    for name, text in tricks(minted).items()
    if text != minted
]


@pytest.mark.parametrize(("kind", "uri"), CASES)
def test_no_trick_names_another_row(vfs: ModuleType, kind: str, uri: str) -> None:
    for minted in MINTED.values():
        assert not vfs.is_same_uri(uri, minted)


def test_the_uri_of_one_row_does_not_fit_another(vfs: ModuleType) -> None:
    ours = vfs.UriMinter(7, 11)
    minted = [
        ours.result_uri(PORT),
        ours.result_uri(OTHER_PORT),
        ours.result_uri(PORT.replace("isInternal=false", "isInternal=true")),
        ours.console_uri("op-1"),
        ours.console_uri("op-2"),
        ours.runtime_stats_uri(),
        vfs.UriMinter(8, 11).result_uri(PORT),
        vfs.UriMinter(7, 12).result_uri(PORT),
        vfs.UriMinter(7, 11, "user-1-main").result_uri(PORT),
        vfs.UriMinter(7, 11, "user-2-main").result_uri(PORT),
        vfs.UriMinter(7, 11, "user-1-main").console_uri("op-1"),
        vfs.UriMinter(7, 11, "user-1-main").runtime_stats_uri(),
    ]
    for number, text in enumerate(minted):
        assert [vfs.is_same_uri(text, other) for other in minted].index(True) == number
        assert sum(vfs.is_same_uri(text, other) for other in minted) == 1


@pytest.mark.parametrize(
    ("uri", "minted"),
    [
        (MINTED["stats"].replace("runtimestatistics", "runtimeStatistics"), MINTED["stats"]),
        (MINTED["stats"].replace("runtimestatistics", "RUNTIMESTATISTICS"), MINTED["stats"]),
        (MINTED["console"].replace("consolemessages", "consoleMessages"), MINTED["console"]),
        (MINTED["result"].replace("/result", "/Result"), MINTED["result"]),
        *(
            (OURS.console_uri(operator), OURS.console_uri(operator))
            for operator in ("a_b", "a.b", "a=b", "a(b)", "-", "wid", "eid", "opid", "a%2Fb")
        ),
        *(
            (OURS.result_uri(port), OURS.result_uri(port))
            for port in (
                PORT.replace("op-1", "a=b"),
                PORT.replace("op-1", "a(b)"),
                PORT.replace("op-1", "größe"),
                PORT.replace("main", "1st-layer"),
                PORT.replace("isInternal=false", "isInternal=true"),
            )
        ),
    ],
)  # fmt: skip
def test_texeras_legal_oddities_are_taken(vfs: ModuleType, uri: str, minted: str) -> None:
    assert vfs.is_same_uri(uri, minted)
    assert read(uri).execution_id == 11


# What a user's code could put where an id belongs, however it looks.
IDS = st.text(
    st.sampled_from("ab1=.-()_:@&$+~*'!;%2FfEe5c/,?# \\éß\u0661") | st.characters(), max_size=20
)
NUMBERS = st.integers(1, 2**31 - 1)
WAREHOUSES = st.none() | st.from_regex(r"\Auser-[1-9][0-9]{0,3}-[A-Za-z0-9_\-]{1,8}\Z")


def accepted(kind: str, owner: UriMinter, identifier: str) -> str | None:
    """The one text that fits the row, or None for an id that has no row."""
    if kind == "stats":
        return owner.runtime_stats_uri()
    if kind == "console":
        try:
            check_operator_id(identifier)
        except ValueError:
            return None
        return owner.console_uri(identifier)
    port = f"(logicalOpId={identifier},layerName=main,portId=0,isInternal=false,isInput=false)"
    try:
        kit.texera.uris.GlobalPortId.parse(port)
    except ValueError:
        return None
    return owner.result_uri(port)


@given(st.sampled_from(["result", "console", "stats"]), NUMBERS, NUMBERS, WAREHOUSES, IDS)
def test_what_is_let_through_is_to_texera_the_rows_own(
    kind: str, workflow_id: int, execution_id: int, warehouse: str | None, identifier: str
) -> None:
    owner = UriMinter(workflow_id, execution_id, warehouse)
    uri = accepted(kind, owner, identifier)
    if uri is None:
        return

    found = read(uri)

    assert (found.warehouse, found.workflow_id, found.execution_id) == (
        warehouse,
        workflow_id,
        execution_id,
    )
    table = f"wid_{workflow_id}_eid_{execution_id}_"
    assert found.table.startswith(table if warehouse is None else f"wh_{warehouse}_{table}")
    if kind == "console":
        assert (found.operator, found.kind) == (identifier, "consolemessages")
    if kind == "result":
        assert found.kind == "result"
        assert f"logicalOpId={identifier}," in str(found.port)


@given(st.data())
def test_no_text_but_the_minted_one_is_let_through(data: Any) -> None:
    """Texts made of the pieces of two rows' URIs, and of what tricks are made of."""
    pieces = [
        *("vfs:", "//", "/", "wid", "7", "eid", "11", "12", "8", "opid", "op-1", "op-2"),
        *("globalportid", PORT, OTHER_PORT, "result", "consolemessages", "runtimestatistics"),
        *("wh", "user-1-main", "..", ".", "%2F", "%2e", "?", "#", "", "RESULT", "\u212a"),
    ]
    base = data.draw(st.sampled_from(list(MINTED.values())))
    parts = base.split("/")
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(parts)))
        action = data.draw(st.sampled_from(["insert", "replace", "drop"]))
        if action == "insert":
            parts.insert(place, data.draw(st.sampled_from(pieces)))
        elif place < len(parts):
            parts[place : place + 1] = (
                [data.draw(st.sampled_from(pieces))] if action == "replace" else []
            )
    uri = "/".join(parts)

    fits = [name for name, minted in MINTED.items() if is_same_uri(uri, minted)]

    if not fits:
        return
    assert len(fits) == 1
    assert uri.lower() == MINTED[fits[0]].lower()
    found, own = read(uri), read(MINTED[fits[0]])
    assert (found.workflow_id, found.execution_id, found.port, found.operator, found.kind) == (
        own.workflow_id,
        own.execution_id,
        own.port,
        own.operator,
        own.kind,
    )


@pytest.mark.parametrize("uri", ["vfs:///wid/7/eid/11/opid/a b/consolemessages", "x:///wid/7", ""])
def test_the_reader_of_the_tests_throws_where_texera_does(uri: str) -> None:
    with pytest.raises(Unreadable):
        read(uri)
    assert isinstance(read(MINTED["result"]), Read)
