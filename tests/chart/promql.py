"""Metrics and labels in PromQL expressions, compared with those that the services export."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import promql_parser

from tests.metrics_page import all_metrics

SCRAPED = {"namespace", "job", "pod"}
"""Labels that a scrape adds."""


@cache
def metrics() -> dict[str, dict[str, set[str]]]:
    """Every metric of the two services with the values of its labels, as exported from the start.

    A histogram's samples are metrics here, as they are in PromQL.
    """
    found: dict[str, dict[str, set[str]]] = {}
    for registry in all_metrics().values():
        for metric in registry.collect():
            for sample in metric.samples:
                labels = found.setdefault(sample.name, {})
                for name, value in sample.labels.items():
                    labels.setdefault(name, set()).add(value)
    return found


def faults(expression: str) -> list[str]:
    """Metrics that no code defines, labels they lack, and values that no code gives them.

    Raises ValueError for no PromQL.
    """
    found = []
    tree = promql_parser.parse(expression)
    grouped = set(_grouping(tree))
    known = set(SCRAPED)
    for name, matchers in _selectors(tree):
        if name == "up":
            continue
        if name not in metrics():
            found.append(f"{name}: no such metric")
            continue
        labels = metrics()[name]
        known |= labels.keys()
        for matcher in matchers:
            if matcher.name in labels:
                found += _unmatched(name, matcher, labels[matcher.name])
            elif matcher.name not in SCRAPED:
                found.append(f"{name}: no label {matcher.name}")
    return found + [f"no label {label} to group by" for label in sorted(grouped - known)]


def _unmatched(name: str, matcher: Any, values: set[str]) -> list[str]:
    """Of the alternatives that the matcher names, those that the label never has."""
    named = matcher.value.split("|")
    return [
        f"{name}: no {matcher.name} is {text}"
        for text in named
        if not any(re.fullmatch(text, value) for value in values)
    ]


def selectors(expression: str) -> list[str]:
    """The series that an expression selects, as it names them."""
    found = _selectors(promql_parser.parse(expression))
    return [f"{name}{{{', '.join(map(str, matchers))}}}" for name, matchers in found]


def _selectors(tree: Any) -> Iterator[tuple[str, list[Any]]]:
    """Name and matchers of every vector selector."""
    for node in _nodes(tree):
        if isinstance(node, promql_parser.VectorSelector):
            yield str(node.name), node.matchers.matchers


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
