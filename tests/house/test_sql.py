"""Each named block of central/sql has one function that runs it, and the reverse."""

import ast
import re
from collections import defaultdict
from pathlib import PurePosixPath

from tests.house.conftest import Tree


def blocks(tree: Tree) -> set[str]:
    """Every block as `file.name`."""
    return {
        f"{PurePosixPath(path).stem}.{name}"
        for path, text in tree.items()
        if re.fullmatch(r"central/sql/\w+\.sql", path)
        for name in re.findall(r"^-- name: (\w+)", text, re.MULTILINE)
    }


def uses(tree: Tree) -> dict[str, set[str]]:
    """The functions that look up a block: `queries["name"]`, in a file that has `load("file")`."""
    found = defaultdict(set)
    for path, text in tree.items():
        if not (path.startswith("central/") and path.endswith(".py")):
            continue
        files = re.findall(r'\bload\("(\w+)"\)', text)
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for name in re.findall(r"queries\['(\w+)'\]", ast.unparse(function)):
                    for file in files:
                        found[f"{file}.{name}"].add(f"{path}:{function.name}")
    return found


def mismatches(tree: Tree) -> list[str]:
    known, used = blocks(tree), uses(tree)
    unused = [f"{block}: no function runs it" for block in sorted(known - used.keys())]
    shared = [
        f"{block}: {', '.join(sorted(used[block]))} all run it"
        for block in sorted(known & used.keys())
        if len(used[block]) > 1
    ]
    names = {block.partition(".")[2] for block in known}
    missing = [block for block in sorted(used) if block.partition(".")[2] not in names]
    return unused + shared + [f"{block}: there is no such block" for block in missing]


def test_each_block_has_one_function_and_the_reverse(tree: Tree) -> None:
    assert mismatches(tree) == []


def test_the_rule_sees_what_is_unused_shared_and_missing() -> None:
    python = 'q = load("a")\ndef f():\n    queries["x"], queries["z"]\ndef g():\n    queries["x"]\n'
    sql = "-- name: x\nselect 1;\n-- name: y\nselect 2;\n"

    found = mismatches({"central/sql/a.sql": sql, "central/store/a.py": python})

    assert found == [
        "a.y: no function runs it",
        "a.x: central/store/a.py:f, central/store/a.py:g all run it",
        "a.z: there is no such block",
    ]
