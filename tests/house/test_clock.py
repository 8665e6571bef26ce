"""Time, sleep and randomness reach the services as arguments; tests do not wait for them."""

import ast

from tests.house.conftest import Tree

SOURCES = {
    "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter",
    "time.sleep", "datetime.now", "datetime.datetime.now", "datetime.utcnow", "date.today",
    "random.random", "random.uniform", "random.randint", "random.randrange", "random.choice",
}  # fmt: skip
"""Named, they may stand as the default of an argument; called, nothing can replace them."""


def calls(text: str, names: set[str]) -> list[str]:
    return [
        f"line {node.lineno}: {ast.unparse(node.func)}()"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names
    ]


def direct_calls(tree: Tree) -> list[str]:
    return [
        f"{path}, {call}"
        for path, text in tree.items()
        if path.startswith(("sidecar/", "central/")) and path.endswith(".py")
        for call in calls(text, SOURCES)
    ]


def sleeping_tests(tree: Tree) -> list[str]:
    return [
        f"{path}, {call}"
        for path, text in tree.items()
        if path.startswith("tests/") and path.endswith(".py")
        for call in calls(text, {"time.sleep", "sleep"})
    ]


def test_the_services_take_their_clock_as_an_argument(tree: Tree) -> None:
    assert direct_calls(tree) == []
    assert direct_calls({"sidecar/a.py": "def f(now=time.time): return now()"}) == []
    assert direct_calls({"sidecar/a.py": "time.time()"}) == ["sidecar/a.py, line 1: time.time()"]


def test_no_test_sleeps(tree: Tree) -> None:
    assert sleeping_tests(tree) == []
    assert sleeping_tests({"tests/a.py": "import time\ntime.sleep(1)"}) != []
