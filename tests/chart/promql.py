"""Metrics and labels in PromQL expressions, compared with those in the services' code."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser

from tests.chart.rendering import ROOT

SCRAPED = {"namespace", "job", "pod", "le"}
"""Labels that a scrape adds, and a histogram's own."""
PATTERNS = {"5.."}
"""Labels with numeric values: statuses."""
HISTOGRAM = re.compile(r"_(bucket|sum|count)$")


@cache
def metrics() -> dict[str, set[str]]:
    """Every metric of the two services with its labels, read from the calls that define it."""
    found: dict[str, set[str]] = {}
    for service in ("central", "sidecar"):
        for path in sorted(Path(ROOT, service).rglob("*.py")):
            for call in ast.walk(ast.parse(path.read_text())):
                if isinstance(call, ast.Call) and call.args:
                    name = call.args[0]
                    if isinstance(name, ast.Constant) and re.fullmatch(
                        rf"{service}_[a-z0-9_]+", str(name.value)
                    ):
                        found[str(name.value)] = set(_labels(call))
    return found


@cache
def words() -> set[str]:
    """Every text in the two services' code: what a label can be must be one of them."""
    return {
        node.value
        for service in ("central", "sidecar")
        for path in Path(ROOT, service).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def _labels(call: ast.Call) -> Iterator[str]:
    for argument in call.args[2:]:
        if isinstance(argument, ast.List):
            for element in argument.elts:
                if isinstance(element, ast.Constant):
                    yield str(element.value)


def faults(expression: str) -> list[str]:
    """Metrics that no code defines, labels they lack, and values that no code gives them.

    Raises ValueError for no PromQL.
    """
    found = []
    tree = promql_parser.parse(expression)
    grouped = set(_grouping(tree))
    known = set(SCRAPED)
    for name, matched in _selectors(tree):
        labels = set(matched)
        metric = name if name in metrics() else HISTOGRAM.sub("", name)
        if name == "up":
            continue
        if metric not in metrics():
            found.append(f"{name}: no such metric")
            continue
        known |= metrics()[metric]
        unknown = labels - metrics()[metric] - SCRAPED
        found += [f"{name}: no label {label}" for label in sorted(unknown)]
        values = {v for label in labels & metrics()[metric] for v in matched[label].split("|")}
        found += [f"{name}: nothing is {v}" for v in sorted(values - words() - PATTERNS)]
    return found + [f"no label {label} to group by" for label in sorted(grouped - known)]


def _selectors(tree: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and matched labels, each with its value, of every vector selector."""
    for node in _nodes(tree):
        if isinstance(node, promql_parser.VectorSelector):
            yield str(node.name), {m.name: m.value for m in node.matchers.matchers}


def _grouping(tree: Any) -> Iterator[str]:
    for node in _nodes(tree):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            yield from node.modifier.labels


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for attribute in ("expr", "lhs", "rhs", "vector_selector", "args"):
        child = getattr(node, attribute, None)
        for one in child if isinstance(child, list) else [child]:
            if one is not None:
                yield from _nodes(one)
