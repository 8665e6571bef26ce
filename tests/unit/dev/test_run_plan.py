"""The plan of a run depends on the workflow file alone, and ends as the run would."""

import json
from pathlib import Path

import pytest

from dev.python_operators import failures
from dev.run_plan import (
    FirstPrint,
    Poll,
    RunPlan,
    StartRegion,
    StoreStatus,
    plan_run,
    seconds_at,
)
from dev.texera import SAMPLE_WORKFLOW
from dev.workflow_file import Workflow, parse_workflow, read_workflow
from tests.workflows import MISSING_COLUMN, WEATHER


def statuses(plan: RunPlan) -> list[str]:
    return [step.action.status for step in plan.steps if isinstance(step.action, StoreStatus)]


def polls(plan: RunPlan) -> list[Poll]:
    return [step.action for step in plan.steps if isinstance(step.action, Poll)]


def python_after_text_input(code: str) -> Workflow:
    """A text input with one column called line, and a Python operator behind it."""
    ports = [{"portID": "output-0"}]
    operators = [
        {
            "operatorID": "text",
            "operatorType": "TextInput",
            "operatorProperties": {"textInput": "a\nb", "attributeName": "line"},
            "outputPorts": ports,
        },
        {
            "operatorID": "udf",
            "operatorType": "PythonUDFV2",
            "operatorProperties": {"code": code, "retainInputColumns": True},
            "outputPorts": ports,
        },
    ]
    link = {"source": {"operatorID": "text"}, "target": {"operatorID": "udf"}}
    return parse_workflow(json.dumps({"operators": operators, "links": [link]}))


def test_same_file_gives_the_same_plan() -> None:
    assert plan_run(read_workflow(WEATHER)) == plan_run(read_workflow(WEATHER))


@pytest.mark.parametrize("file", [SAMPLE_WORKFLOW, WEATHER], ids=lambda file: file.stem)
def test_run_pauses_resumes_and_completes(file: Path) -> None:
    plan = plan_run(read_workflow(file))

    paused = ["PAUSING", "PAUSED", "RESUMING", "RUNNING"]
    assert statuses(plan) == ["RUNNING", *paused, "COMPLETED"]
    assert plan.end_status == "COMPLETED"
    assert plan.failure is None


def test_stored_port_has_a_uri_before_it_grows_and_ends_complete() -> None:
    workflow = read_workflow(WEATHER)
    announced: set[str] = set()
    last_counts: dict[str, int] = {}

    for step in plan_run(workflow).steps:
        if isinstance(step.action, StartRegion):
            announced |= {stored.global_port_id for stored in step.action.storage_ports}
        elif isinstance(step.action, Poll):
            for growth in step.action.changes:
                port = growth.stored.global_port_id
                assert port in announced
                assert growth.tuple_count > last_counts.get(port, 0)
                last_counts[port] = growth.tuple_count

    assert announced == {stored.global_port_id for stored in workflow.storage_ports}
    assert last_counts.keys() == announced


def test_region_ends_at_an_aggregate() -> None:
    plan = plan_run(read_workflow(WEATHER))

    regions = [s.action.storage_ports for s in plan.steps if isinstance(s.action, StartRegion)]

    first, second, third = ({stored.operator.type for stored in ports} for ports in regions)
    assert "Filter" in first
    assert second == {"WordCloud", "LineChart"}
    assert third == {"BarChart"}  # a sort lies between


def test_chart_has_no_size() -> None:
    for poll in polls(plan_run(read_workflow(WEATHER))):
        for growth in poll.changes:
            kind = growth.stored.operator.type
            is_picture = kind.endswith(("Chart", "Cloud", "Visualizer"))
            assert (growth.result_bytes is None) == is_picture


def test_failing_python_operator_ends_the_run_failed_with_its_console() -> None:
    plan = plan_run(read_workflow(MISSING_COLUMN))

    assert plan.end_status == "FAILED"
    assert statuses(plan) == ["RUNNING", "FAILED"]
    assert plan.failure is not None
    assert plan.failure.endswith("KeyError: 'sentence'")
    [first_print] = [s.action for s in plan.steps if isinstance(s.action, FirstPrint)]
    assert first_print.text == "KeyError: 'sentence'"
    assert all(not poll.changes for poll in polls(plan))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ('        yield tuple_["line"]', None),
        ('        yield tuple_["lines"]', "KeyError: 'lines'"),
        ('        tuple_["n"] = 1\n        yield tuple_["n"]', None),
        ('        tuple_["n"] = tuple_["n"]', "KeyError: 'n'"),
        ('        other["lines"]', None),
        ("        yield tuple_[column]", None),
    ],
)
def test_code_that_reads_a_missing_column_fails(code: str, reason: str | None) -> None:
    head = "class P:\n    def process_tuple(self, tuple_, port):\n"

    found = failures(python_after_text_input(head + code))

    assert found.get("udf") == reason


def test_code_with_a_syntax_error_fails() -> None:
    [reason] = failures(python_after_text_input("def (:")).values()

    assert reason.startswith("SyntaxError")


def test_code_with_unknown_input_columns_does_not_fail() -> None:
    assert failures(read_workflow(WEATHER)) == {}


@pytest.mark.parametrize(("poll_s", "expected_s"), [(3.0, 19.4), (0.2, 1.36)])
def test_duration_follows_from_the_poll_interval(poll_s: float, expected_s: float) -> None:
    plan = plan_run(read_workflow(WEATHER))

    assert seconds_at(plan.steps[-1].at, poll_s) == pytest.approx(expected_s)


def test_first_poll_is_after_two_seconds_at_most() -> None:
    assert seconds_at(1, poll_s=3.0) == 2.0
    assert seconds_at(1, poll_s=0.5) == 0.5
    assert seconds_at(2, poll_s=3.0) == 5.0
