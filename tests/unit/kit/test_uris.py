"""An accepted URI names, to Texera, its own row; no variant that names another is accepted.

Texera's clean-up drops whatever table a stored URI names: these tests keep one user's code from
dropping another user's table.
"""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.texera.uris import (
    GLOBAL_PORT_ID_SCHEMA,
    OPERATOR_ID_SCHEMA,
    GlobalPortId,
    UriMinter,
    check_operator_id,
    is_same_uri,
)
from tests.unit.kit.texera_uri_parser import ParsedUri, UnparseableUri, parse
from tests.unit.kit.uri_variants import variants

PORT = "(logicalOpId=op-1,layerName=main,portId=0,isInternal=false,isInput=false)"
OTHER_PORT = PORT.replace("op-1", "op-2")
MINTER = UriMinter(7, 11)
MINTED = {
    "result": MINTER.result_uri(PORT),
    "console": MINTER.console_uri("op-1"),
    "stats": MINTER.runtime_stats_uri(),
}


CASES = [
    pytest.param(kind, text, id=f"{kind}: {name}")
    for kind, minted in MINTED.items()
    for name, text in variants(minted).items()
    if text != minted
]


@pytest.mark.parametrize(("kind", "uri"), CASES)
def test_no_variant_of_a_uri_is_accepted(kind: str, uri: str) -> None:
    for minted in MINTED.values():
        assert not is_same_uri(uri, minted)


def test_the_uri_of_one_row_is_refused_for_another() -> None:
    minter = UriMinter(7, 11)
    minted = [
        minter.result_uri(PORT),
        minter.result_uri(OTHER_PORT),
        minter.result_uri(PORT.replace("isInternal=false", "isInternal=true")),
        minter.console_uri("op-1"),
        minter.console_uri("op-2"),
        minter.runtime_stats_uri(),
        UriMinter(8, 11).result_uri(PORT),
        UriMinter(7, 12).result_uri(PORT),
        UriMinter(7, 11, "user-1-main").result_uri(PORT),
        UriMinter(7, 11, "user-2-main").result_uri(PORT),
        UriMinter(7, 11, "user-1-main").console_uri("op-1"),
        UriMinter(7, 11, "user-1-main").runtime_stats_uri(),
    ]
    for number, text in enumerate(minted):
        assert [is_same_uri(text, other) for other in minted].index(True) == number
        assert sum(is_same_uri(text, other) for other in minted) == 1


@pytest.mark.parametrize(
    ("uri", "minted"),
    [
        (MINTED["stats"].replace("runtimestatistics", "runtimeStatistics"), MINTED["stats"]),
        (MINTED["stats"].replace("runtimestatistics", "RUNTIMESTATISTICS"), MINTED["stats"]),
        (MINTED["console"].replace("consolemessages", "consoleMessages"), MINTED["console"]),
        (MINTED["result"].replace("/result", "/Result"), MINTED["result"]),
        *(
            (MINTER.console_uri(operator), MINTER.console_uri(operator))
            for operator in ("a_b", "a.b", "a=b", "a(b)", "-", "wid", "eid", "opid", "a%2Fb")
        ),
        *(
            (MINTER.result_uri(port), MINTER.result_uri(port))
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
def test_every_uri_that_texera_mints_is_accepted(uri: str, minted: str) -> None:
    assert is_same_uri(uri, minted)
    assert parse(uri).execution_id == 11


SCHEMA_OF_OPERATORS = str(OPERATOR_ID_SCHEMA["pattern"])
SCHEMA_OF_PORTS = str(GLOBAL_PORT_ID_SCHEMA["pattern"])


@pytest.mark.parametrize(
    "identifier",
    [
        ".",
        "..",
        "a%2Fb",
        "a%2eb",
        "%2e%2e",
        "a%",
        "a\u202eb",
        "a\u2069",
        "a\x07",
        "a\x85",
        "a\n",
        "a b",
    ],
)
def test_an_id_with_an_escape_a_dot_segment_or_a_control_is_refused(identifier: str) -> None:
    assert accepted("console", MINTER, identifier) is None
    assert accepted("result", MINTER, identifier) is None
    assert re.search(SCHEMA_OF_PORTS, PORT.replace("op-1", identifier)) is None


@pytest.mark.parametrize(
    "identifier", ["...", "a.b", "a..b", ".a", "größe", "PythonUDFV2-operator-1"]
)
def test_dots_within_an_id_are_accepted(identifier: str) -> None:
    assert accepted("console", MINTER, identifier) is not None
    assert accepted("result", MINTER, identifier) is not None
    assert re.search(SCHEMA_OF_OPERATORS, identifier) is not None


# Ids that a user's code could choose.
IDS = st.text(
    st.sampled_from("ab1=.-()_:@&$+~*'!;%2FfEe5c/,?# \\éß\u0661") | st.characters(), max_size=20
)
NUMBERS = st.integers(1, 2**31 - 1)
WAREHOUSES = st.none() | st.from_regex(r"\Auser-[1-9][0-9]{0,3}-[A-Za-z0-9_\-]{1,8}\Z")


def accepted(kind: str, owner: UriMinter, identifier: str) -> str | None:
    """The one text accepted for the row, or None for an invalid id."""
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
        GlobalPortId.parse(port)
    except ValueError:
        return None
    return owner.result_uri(port)


@settings(deadline=None)
@given(st.sampled_from(["result", "console", "stats"]), NUMBERS, NUMBERS, WAREHOUSES, IDS)
def test_texera_parses_an_accepted_uri_as_the_rows_own(
    kind: str, workflow_id: int, execution_id: int, warehouse: str | None, identifier: str
) -> None:
    owner = UriMinter(workflow_id, execution_id, warehouse)
    uri = accepted(kind, owner, identifier)
    if uri is None:
        return

    parsed = parse(uri)

    assert (parsed.warehouse, parsed.workflow_id, parsed.execution_id) == (
        warehouse,
        workflow_id,
        execution_id,
    )
    table = f"wid_{workflow_id}_eid_{execution_id}_"
    assert parsed.table.startswith(table if warehouse is None else f"wh_{warehouse}_{table}")
    if kind == "console":
        assert (parsed.operator, parsed.kind) == (identifier, "consolemessages")
    if kind == "result":
        assert parsed.kind == "result"
        assert f"logicalOpId={identifier}," in str(parsed.port)


@settings(deadline=None)
@given(st.data())
def test_no_text_but_the_minted_one_is_accepted(data: Any) -> None:
    """Texts made of the segments of two rows' URIs and of the variants' pieces."""
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

    accepted_as = [name for name, minted in MINTED.items() if is_same_uri(uri, minted)]

    if not accepted_as:
        return
    assert len(accepted_as) == 1
    assert uri.lower() == MINTED[accepted_as[0]].lower()
    parsed, expected = parse(uri), parse(MINTED[accepted_as[0]])
    assert (parsed.workflow_id, parsed.execution_id, parsed.port, parsed.operator, parsed.kind) == (
        expected.workflow_id,
        expected.execution_id,
        expected.port,
        expected.operator,
        expected.kind,
    )


@pytest.mark.parametrize("uri", ["vfs:///wid/7/eid/11/opid/a b/consolemessages", "x:///wid/7", ""])
def test_the_reference_parser_fails_where_texera_does(uri: str) -> None:
    with pytest.raises(UnparseableUri):
        parse(uri)
    assert isinstance(parse(MINTED["result"]), ParsedUri)
