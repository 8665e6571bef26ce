"""The tree that house rules look at."""

import fnmatch
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).parents[2]

Tree: TypeAlias = Mapping[str, str]
"""The text of every file of ours, by its path from the root."""


def read_tree(root: Path) -> Tree:
    """Reads what git would track: all but what .gitignore names, without asking git."""
    ignored = [".git", *(root / ".gitignore").read_text().split()]
    patterns = [pattern.rstrip("/") for pattern in ignored]

    def kept(name: str) -> bool:
        return not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    texts = {}
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(filter(kept, subfolders))
        for name in sorted(filter(kept, names)):
            path = Path(folder, name)
            texts[path.relative_to(root).as_posix()] = path.read_text(errors="replace")
    return texts


@pytest.fixture(scope="session")
def tree() -> Tree:
    return read_tree(ROOT)
