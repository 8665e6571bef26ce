"""Metric names: the service's prefix, base units, counters that end in _total."""

import ast
import re

from tests.house.conftest import Tree

NAME = re.compile(r"(?:sidecar|central)_[a-z0-9_]+")
SMALL_UNITS = {"ms", "us", "ns", "kb", "mb", "kib", "mib", "minutes", "milliseconds", "percent"}
STATES = {"dropped", "withheld", "full", "info", "parked", "ratio", "reachable", "ready", "up"}
"""Last words of gauges that count nothing: a ratio, or 1 while something is so."""


def metric_calls(tree: Tree) -> list[tuple[str, str, str]]:
    """Path, called name and metric name of each call whose first argument looks like a metric."""
    return [
        (path, ast.unparse(node.func).rpartition(".")[2], str(node.args[0].value))
        for path, text in tree.items()
        if path.startswith(("sidecar/", "central/")) and path.endswith(".py")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and NAME.fullmatch(str(node.args[0].value))
    ]


def misnamed(tree: Tree) -> list[str]:
    faults = []
    for path, call, name in metric_calls(tree):
        service = path.partition("/")[0]
        last = name.removesuffix("_total").rpartition("_")[2]
        if not name.startswith(f"{service}_"):
            faults.append(f"{name}: expected the prefix {service}_")
        if call.lower().startswith("counter") != name.endswith("_total"):
            faults.append(f"{name}: _total is for counters, and for all of them")
        if last in SMALL_UNITS or not (last.endswith("s") or last in STATES):
            faults.append(f"{name}: expected a base unit or what is counted, in the plural")
    return faults


def test_metrics_have_a_prefix_and_a_unit(tree: Tree) -> None:
    assert misnamed(tree) == []
    assert misnamed({"sidecar/a.py": 'Counter("central_writes_total", "")'}) != []
    assert misnamed({"sidecar/a.py": 'Counter("sidecar_writes", "")'}) != []
    assert misnamed({"sidecar/a.py": 'Histogram("sidecar_delivery_ms", "")'}) != []
    assert misnamed({"sidecar/a.py": 'Gauge("sidecar_delivery", "")'}) != []
