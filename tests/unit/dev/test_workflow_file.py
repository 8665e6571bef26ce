"""A workflow file is read, or refused with a sentence that names the fault."""

import json
from pathlib import Path
from typing import Any

import pytest

from dev.texera import SAMPLE_WORKFLOW
from dev.workflow_file import Workflow, WorkflowFileError, parse_workflow, read_workflow
from tests.workflows import EARLY_EDITOR, MISSING_COLUMN, WEATHER


def operator(operator_id: str, operator_type: str = "Filter", **more: Any) -> dict[str, Any]:
    ports = {"outputPorts": [{"portID": "output-0"}]}
    return {"operatorID": operator_id, "operatorType": operator_type, **ports, **more}


def link(source: str, target: str, port: str = "output-0") -> dict[str, Any]:
    return {
        "source": {"operatorID": source, "portID": port},
        "target": {"operatorID": target, "portID": "input-0"},
    }


def parsed(operators: list[dict[str, Any]], links: list[dict[str, Any]] | None = None) -> Workflow:
    return parse_workflow(json.dumps({"operators": operators, "links": links or []}))


def stored(workflow: Workflow) -> list[tuple[str, int]]:
    return [(port.operator.id, port.port) for port in workflow.storage_ports]


@pytest.mark.parametrize(
    ("file", "operators", "results", "python"),
    [(EARLY_EDITOR, 2, 1, 0), (WEATHER, 18, 11, 2), (MISSING_COLUMN, 4, 1, 1)],
    ids=lambda value: value.stem if isinstance(value, Path) else None,
)
def test_files_of_the_editor_are_read(
    file: Path, operators: int, results: int, python: int
) -> None:
    workflow = read_workflow(file)

    assert len(workflow.operators) == operators
    assert len(workflow.storage_ports) == results
    assert len(workflow.python_operators) == python


def test_sample_has_branches_two_python_operators_and_a_chart() -> None:
    workflow = read_workflow(SAMPLE_WORKFLOW)

    assert 7 <= len(workflow.operators) <= 10
    assert len(workflow.python_operators) == 2
    assert len(workflow.final_operators) > 1
    assert any(operator.type.endswith("Chart") for operator in workflow.operators)


def test_operators_are_in_topological_order() -> None:
    workflow = parsed(
        [operator("c"), operator("b"), operator("a")], [link("a", "b"), link("b", "c")]
    )

    assert [op.id for op in workflow.operators] == ["a", "b", "c"]


def test_storage_ports_are_those_of_final_and_viewed_operators() -> None:
    workflow = parsed(
        [
            operator("source"),
            operator("viewed", viewResult=True),
            operator("end", outputPorts=[{"portID": "output-0"}, {"portID": "output-1"}]),
        ],
        [link("source", "viewed"), link("viewed", "end")],
    )

    assert stored(workflow) == [("viewed", 0), ("end", 0), ("end", 1)]


def test_links_of_a_disabled_operator_are_dropped() -> None:
    workflow = parsed(
        [operator("a"), operator("b", isDisabled=True), operator("c")],
        [link("a", "b"), link("b", "c")],
    )

    assert {op.id for op in workflow.operators} == {"a", "c"}
    assert workflow.links == ()
    assert {op.id for op in workflow.final_operators} == {"a", "c"}


def test_missing_keys_have_defaults() -> None:
    text = '{"operators": [{"operatorID": "a", "operatorType": "Sort"}], "links": null}'

    [only] = parse_workflow(text).operators

    assert only.output_ports == ()
    assert not only.view_result
    assert only.display_name == "Sort"


def test_ports_are_read_from_links_if_not_listed() -> None:
    first = {"operatorID": "a", "operatorType": "Split"}

    workflow = parsed([first, operator("b")], [link("a", "b", "output-1")])

    assert workflow.operators[0].output_ports == (1,)


def test_underscore_is_allowed_in_an_operator_without_stored_result() -> None:
    workflow = parsed([operator("a_b", "PythonUDFV2"), operator("c")], [link("a_b", "c")])

    assert stored(workflow) == [("c", 0)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "no list called operators"),
        ('{"links": []}', "no list called operators"),
        ('{"operators": {}}', "operators of the file is not a list of objects"),
        ('{"operators": [7]}', "operators of the file is not a list of objects"),
        ('{"operators": []}', "no enabled operator"),
        ('{"operators": [{"operatorType": "Sort"}]}', "operator number 1 has no operatorID"),
        ('{"operators": [{"operatorID": "a"}]}', "operator 'a' has no operatorType"),
    ],
)
def test_file_that_is_no_workflow_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(WorkflowFileError, match=sentence):
        parse_workflow(text)


@pytest.mark.parametrize(
    ("operators", "links", "sentence"),
    [
        ([operator("a"), operator("a")], [], "two operators have the id 'a'"),
        ([operator("a")], [link("a", "gone")], "names the operator 'gone', which does not exist"),
        ([operator("a"), operator("b")], [link("a", "b"), link("b", "a")], "form a cycle"),
        ([operator("a"), operator("b")], [link("a", "b", "output-3")], "has no such port"),
        ([operator("a", outputPorts=[{"portID": "out"}])], [], "'out', not output-N"),
        ([operator("a_b")], [], "contains '_'"),
        ([operator("a,b")], [], "contains ','"),
        ([operator("a b")], [], "which no URI may"),
        ([operator("a" * 150)], [], "longer than 200 characters"),
        ([operator("a"), {"operatorID": "b", "operatorType": "X"}], [{}], "link number 1 needs"),
    ],
)
def test_workflow_that_could_not_run_is_refused(
    operators: list[dict[str, Any]], links: list[dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(WorkflowFileError, match=sentence):
        parsed(operators, links)


def test_error_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    file.write_text("{")

    with pytest.raises(WorkflowFileError, match=r"broken\.json: is not JSON"):
        read_workflow(file)
    with pytest.raises(WorkflowFileError, match=r"absent\.json: cannot be read"):
        read_workflow(tmp_path / "absent.json")
