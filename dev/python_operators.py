"""Predicts from the workflow file whether a user's Python operator will fail.

The file determines the columns of some operators (a text input names its column, a filter keeps its
input's, a CSV scan's depend on the data). An operator's code is parsed, never run. It is predicted
to fail in two cases: it has a syntax error, or it reads a column that its input is known not to
have. With unknown columns it is predicted to succeed.
"""

import ast
from collections.abc import Mapping
from typing import Any

from dev.workflow_file import Operator, Workflow

_COLUMN_PRESERVING_TYPES = {
    "Filter",
    "Sort",
    "Limit",
    "Distinct",
    "RandomKSampling",
    "StableMergeSort",
}
_ROW_METHODS = {"process_tuple", "process_table", "process_batch"}

Columns = frozenset[str] | None
"""An operator's output columns; None if the file does not determine them."""


def failures(workflow: Workflow) -> dict[str, str]:
    """Operators that fail at their first row, by id, with Python's error."""
    columns: dict[str, Columns] = {}
    found: dict[str, str] = {}
    for operator in workflow.operators:
        inputs = [columns[source.id] for source in workflow.inputs_of(operator)]
        columns[operator.id] = _output_columns(operator, inputs)
        if operator.is_python and operator.code:
            reason = _predicted_error(operator.code, _all_of(inputs))
            if reason is not None:
                found[operator.id] = reason
    return found


def _output_columns(operator: Operator, inputs: list[Columns]) -> Columns:
    properties = operator.properties
    if operator.type == "TextInput":
        return _named([properties.get("attributeName", "line")])
    if operator.type in _COLUMN_PRESERVING_TYPES:
        return _all_of(inputs)
    if operator.type == "Aggregate":
        results = [item.get("result attribute") for item in _objects(properties, "aggregations")]
        return _named([*results, *_list(properties, "groupByKeys")])
    if operator.type == "PythonUDFV2":
        added = _named(
            [item.get("attributeName") for item in _objects(properties, "outputColumns")]
        )
        kept = _all_of(inputs) if properties.get("retainInputColumns") is True else frozenset()
        return None if added is None or kept is None else added | kept
    return None


def _all_of(inputs: list[Columns]) -> Columns:
    """The union of the inputs' columns; None if one is unknown or there is no input."""
    known = [columns for columns in inputs if columns is not None]
    return frozenset().union(*known) if known and len(known) == len(inputs) else None


def _predicted_error(code: str, input_columns: Columns) -> str | None:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    if input_columns is None:
        return None
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in _ROW_METHODS:
            missing = _first_missing_column(function, input_columns)
            if missing is not None:
                return f"KeyError: {missing!r}"
    return None


def _first_missing_column(function: ast.FunctionDef, columns: frozenset[str]) -> str | None:
    """The first column, in source order, that is read but neither in the input nor set before."""
    arguments = function.args.args
    if len(arguments) < 2:
        return None
    row = arguments[1].arg
    present = set(columns)
    by_position = sorted(
        (node for node in ast.walk(function) if isinstance(node, ast.Subscript)),
        # In `row["b"] = row["a"]` the right-hand side is evaluated first.
        key=lambda node: (node.lineno, isinstance(node.ctx, ast.Store), node.col_offset),
    )
    for node in by_position:
        is_row = isinstance(node.value, ast.Name) and node.value.id == row
        if not is_row or not isinstance(node.slice, ast.Constant):
            continue
        column = node.slice.value
        if not isinstance(column, str):
            continue
        if isinstance(node.ctx, ast.Store):
            present.add(column)
        elif column not in present:
            return column
    return None


def _named(names: list[Any]) -> Columns:
    return frozenset(names) if all(isinstance(name, str) for name in names) else None


def _list(properties: Mapping[str, Any], key: str) -> list[Any]:
    value = properties.get(key)
    return value if isinstance(value, list) else []


def _objects(properties: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    return [item for item in _list(properties, key) if isinstance(item, dict)]
