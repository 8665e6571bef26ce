"""Names, sizes and texts of files."""

import re
from pathlib import PurePosixPath

from tests.house.conftest import Tree

VAGUE = {"common", "data", "helper", "helpers", "manager", "misc", "util", "utils"}

LONGEST_LINE_COUNT = 450
LONG_FOR_A_REASON: dict[str, str] = {}
"""Path: why its one noun needs more room."""

FOREIGN = re.compile(
    r"(?:pypi|pythonhosted|npmjs|crates)\.(?:org|io)"  # registries are the installer's own setting
    r"|(?:index|extra-index|find-links)[-_]?(?:url)? ?= ?['\"]?(?:https?:|/)"
    r"|(?<![\w.$}/-])/(?:root|work|home|Users|opt/wheels)/"  # paths of someone's machine
)


def vague_names(tree: Tree) -> list[str]:
    return [
        path for path in tree if VAGUE & {part.split(".")[0] for part in PurePosixPath(path).parts}
    ]


def long_files(tree: Tree) -> list[str]:
    counts = {path: text.count("\n") for path, text in tree.items() if path.endswith(".py")}
    long = {path for path, count in counts.items() if count > LONGEST_LINE_COUNT}
    missing = [f"{path}: {counts[path]} lines" for path in sorted(long - LONG_FOR_A_REASON.keys())]
    stale = [f"{path}: no longer needs its exception" for path in LONG_FOR_A_REASON.keys() - long]
    return missing + stale


def foreign_addresses(tree: Tree) -> list[str]:
    return [
        f"{path}: {found.group()}"
        for path, text in tree.items()
        if path != "tests/house/test_files.py"
        for found in FOREIGN.finditer(text)
    ]


def test_no_file_has_a_name_that_says_nothing(tree: Tree) -> None:
    assert vague_names(tree) == []
    assert vague_names({"central/utils/time.py": "", "sidecar/manager.py": ""}) != []


def test_a_long_file_has_a_reason(tree: Tree) -> None:
    assert long_files(tree) == []
    assert "a.py: 451 lines" in long_files({"a.py": "\n" * 451})


def test_no_file_names_a_registry_or_a_path_of_a_machine(tree: Tree) -> None:
    assert foreign_addresses(tree) == []
    assert foreign_addresses({"a": "--index-url=https://x", "b": "cd /home/me/texera"}) != []
    assert foreign_addresses({"a": "https://pypi.org/simple"}) == ["a: pypi.org"]
