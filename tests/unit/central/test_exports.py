"""Which operators an export may not have, and what its files are called."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from central.domain.export_rules import (
    DatasetName,
    ExportedOperator,
    Workflow,
    blocked_operators,
    dataset_of_path,
    datasets_by_operator,
    export_file_name,
    links_of,
    parse_workflow,
)

LICENSED = DatasetName("stranger@example.org", "prices")
NOON = datetime(2026, 11, 24, 12, 0, 5, tzinfo=UTC)


def content(files: dict[str, Any], links: list[tuple[str, str]]) -> Workflow:
    return parse_workflow(json.dumps(document(files, links)))


def document(files: dict[str, Any], links: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "operators": [
            {"operatorID": operator, "operatorProperties": {"fileName": file}}
            for operator, file in files.items()
        ],
        "links": [
            {"source": {"operatorID": source}, "target": {"operatorID": target}}
            for source, target in links
        ],
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a@x.org/d/v1/f.csv", DatasetName("a@x.org", "d")),
        ("/datasets/a@x.org/d/v1/f.csv", DatasetName("a@x.org", "d")),
        ("a@x.org/d/v1/deep/er/f.csv", DatasetName("a@x.org", "d")),
        ("//a@x.org//d", DatasetName("a@x.org", "d")),
        ("/a@x.org", None),
        ("/datasets/a@x.org", None),
        ("", None),
    ],
)
def test_a_dataset_is_named_by_its_path(path: str, expected: DatasetName | None) -> None:
    assert dataset_of_path(path) == expected


def test_a_block_spreads_downstream_only_and_through_cycles() -> None:
    workflow = content(
        {"scan": "/stranger@example.org/prices/v1/f", "free": "/owner@example.org/own/v1/f"},
        [
            ("scan", "join"), ("free", "join"), ("join", "chart"), ("free", "count"),
            ("chart", "loop"), ("loop", "join"),
        ],
    )  # fmt: skip
    read = datasets_by_operator(workflow)

    blocked = blocked_operators(links_of(workflow), read, {LICENSED: LICENSED})

    label = "prices (stranger@example.org)"
    assert blocked == {operator: [label] for operator in ("scan", "join", "chart", "loop")}


def test_every_dataset_in_the_way_is_named() -> None:
    other = DatasetName("b@x.org", "maps")
    workflow = content(
        {"s1": "/stranger@example.org/prices/v1/f", "s2": "/b@x.org/maps/v1/f"},
        [("s1", "join"), ("s2", "join")],
    )

    restricted = {other: other, LICENSED: LICENSED}

    blocked = blocked_operators(links_of(workflow), datasets_by_operator(workflow), restricted)

    assert blocked["join"] == ["maps (b@x.org)", "prices (stranger@example.org)"]
    assert blocked["s2"] == ["maps (b@x.org)"]


def test_a_dataset_is_blocked_as_it_is_named_and_shown_as_it_is_called() -> None:
    workflow = content({"scan": "/Stranger@Example.org/Prices/v1/f"}, [])
    named = DatasetName("Stranger@Example.org", "Prices")

    blocked = blocked_operators(
        links_of(workflow), datasets_by_operator(workflow), {named: LICENSED}
    )

    assert blocked == {"scan": ["prices (stranger@example.org)"]}


@pytest.mark.parametrize(
    "strange",
    [
        None, [], "text", 5, {},
        {"operators": None, "links": {}},
        {"operators": [None, 1, {}, {"operatorID": 5}], "links": [None, {"source": 1}]},
        document({"scan": None}, []),
        document({"scan": {"path": "/a/b"}}, []),
    ],
)  # fmt: skip
def test_a_strange_workflow_blocks_nothing(strange: Any) -> None:
    workflow = parse_workflow(json.dumps(strange))
    read = datasets_by_operator(workflow)

    assert blocked_operators(links_of(workflow), read, {LICENSED: LICENSED}) == {}


@pytest.mark.parametrize(
    ("output_type", "extension"),
    [("csv", "csv"), ("arrow", "arrow"), ("html", "html"), ("data", "data"), ("parquet", "zip")],
)
def test_a_file_is_named_by_texeras_rule(output_type: str, extension: str) -> None:
    operator = ExportedOperator("HashJoin-1", output_type)

    name = export_file_name("Sales", operator, 402, NOON)

    assert name == f"Sales-opHashJoin-1-v402-2026-11-24_12-00-05.{extension}"


def test_slashes_are_taken_out_of_a_made_up_name() -> None:
    name = export_file_name("a/b\\c", ExportedOperator("x/y", "csv"), None, NOON)

    assert name == "abc-opxy-v0-2026-11-24_12-00-05.csv"
