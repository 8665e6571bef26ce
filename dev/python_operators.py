"""Whether a user's Python operator will fail, told from the workflow file alone.

A workflow file says which columns flow where, as far as its operators fix them (a text input names
its column, a filter keeps what it gets, a CSV scan leaves them to its data). An operator's code is
only read, never run. It fails for sure in two cases: it is not Python, or it reads a column by name
that its input is known not to have. Where the columns cannot be known, the code gets the benefit of
the doubt.
"""

import ast
from collections.abc import Mapping
from typing import Any

from dev.workflow_file import Operator, Workflow

_KEEPS_ITS_COLUMNS = {"Filter", "Sort", "Limit", "Distinct", "RandomKSampling", "StableMergeSort"}
_GETS_ROWS = {"process_tuple", "process_table", "process_batch"}

Columns = frozenset[str] | None
"""The columns that leave an operator; None where the file does not fix them."""


def failures(workflow: Workflow) -> dict[str, str]:
    """Operators that fail as soon as they get a row, by id, with what Python would say."""
    columns: dict[str, Columns] = {}
    found: dict[str, str] = {}
    for operator in workflow.operators:
        inputs = [columns[source.id] for source in workflow.inputs_of(operator)]
        columns[operator.id] = _output_columns(operator, inputs)
        if operator.is_python and operator.code:
            reason = _why_it_fails(operator.code, _all_of(inputs))
            if reason is not None:
                found[operator.id] = reason
    return found


def _output_columns(operator: Operator, inputs: list[Columns]) -> Columns:
    properties = operator.properties
    if operator.type == "TextInput":
        return _named([properties.get("attributeName", "line")])
    if operator.type in _KEEPS_ITS_COLUMNS:
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
    """The columns of all inputs together: unknown if one of them is, or if there is none."""
    known = [columns for columns in inputs if columns is not None]
    return frozenset().union(*known) if known and len(known) == len(inputs) else None


def _why_it_fails(code: str, input_columns: Columns) -> str | None:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    if input_columns is None:
        return None
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in _GETS_ROWS:
            missing = _first_missing_column(function, input_columns)
            if missing is not None:
                return f"KeyError: {missing!r}"
    return None


def _first_missing_column(function: ast.FunctionDef, columns: frozenset[str]) -> str | None:
    """The first column, in the order of the text, that is read but neither given nor set before."""
    arguments = function.args.args
    if len(arguments) < 2:
        return None
    row = arguments[1].arg
    present = set(columns)
    by_position = sorted(
        (node for node in ast.walk(function) if isinstance(node, ast.Subscript)),
        # In `row["b"] = row["a"]` the right-hand side runs first, though it stands later.
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
