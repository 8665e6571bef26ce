"""docs/security.md: every line of its tables names tests, and they are there."""

import ast
import re

from tests.house.conftest import Tree

TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def missing_tests(tree: Tree) -> list[str]:
    """Tests that the page names and no file has; lines of a table that name none."""
    page = tree.get("docs/security.md", "")
    faults = []
    for path, name in TEST.findall(page):
        functions = {
            node.name
            for node in ast.walk(ast.parse(tree.get(path, "")))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        if name not in functions:
            faults.append(f"{path}::{name}")
    lines = page.splitlines()
    rows = [
        line
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if line.startswith("| ") and not following.startswith("|---")
    ]
    return faults + [f"no test: {row[:60]}" for row in rows if not TEST.search(row)]


def test_each_threat_names_tests_that_exist(tree: Tree) -> None:
    assert missing_tests(tree) == []


def test_the_rule_sees_what_is_not_there() -> None:
    page = (
        "| a | b | c |\n|---|---|---|\n| x | y | `tests/a.py::test_gone` |\n| x | y | nothing |\n"
    )

    found = missing_tests({"docs/security.md": page, "tests/a.py": "def test_here(): pass"})

    assert found == ["tests/a.py::test_gone", "no test: | x | y | nothing |"]
