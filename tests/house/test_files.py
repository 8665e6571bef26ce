"""Names, sizes and texts of files."""

import re
from pathlib import PurePosixPath

from tests.house.conftest import Tree

VAGUE = {"common", "data", "helper", "helpers", "manager", "misc", "util", "utils"}

LONGEST_LINE_COUNT = 320
LONG_FOR_A_REASON: dict[str, str] = {
    "central/problems.py": "a catalogue: one short class per problem",
}
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


def unlike_twins(tree: Tree) -> list[str]:
    """Files of the two kits that differ or stand alone: one text in two places (ADR 0003)."""
    kits = [
        {path.partition("/kit/")[2]: text for path, text in tree.items() if path.startswith(prefix)}
        for prefix in ("sidecar/kit/", "central/kit/")
    ]
    return sorted(name for name in kits[0] | kits[1] if kits[0].get(name) != kits[1].get(name))


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
    assert "a.py: 321 lines" in long_files({"a.py": "\n" * 321})


def test_the_two_kits_are_one_text(tree: Tree) -> None:
    assert unlike_twins(tree) == []
    assert unlike_twins({"sidecar/kit/a.py": "1", "central/kit/a.py": "2"}) == ["a.py"]
    assert unlike_twins({"sidecar/kit/a.py": "1"}) == ["a.py"]


def test_no_file_names_a_registry_or_a_path_of_a_machine(tree: Tree) -> None:
    assert foreign_addresses(tree) == []
    assert foreign_addresses({"a": "--index-url=https://x", "b": "cd /home/me/texera"}) != []
    assert foreign_addresses({"a": "https://pypi.org/simple"}) == ["a: pypi.org"]
