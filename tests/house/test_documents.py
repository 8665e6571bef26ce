"""What the code reads and answers is in the documents, and nothing that it does not."""

import ast
import re
from collections import Counter

from tests.house.conftest import Tree

SERVICES = ("sidecar", "central")
PACKAGES = ("kit", *SERVICES)


def settings(tree: Tree) -> set[str]:
    """Every variable that a *settings.py reads: a call with `"NAME"` among its arguments."""
    return {
        f"{service.upper()}_{argument.value!s}"
        for service in SERVICES
        for path, text in tree.items()
        if re.fullmatch(rf"{service}/\w*settings\.py", path)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        for argument in node.args
        if isinstance(argument, ast.Constant)
        and re.fullmatch(r"[A-Z][A-Z0-9_]*[A-Z0-9]", str(argument.value))
    }


def undocumented_settings(tree: Tree) -> list[str]:
    page = tree.get("docs/operations.md", "")
    documented = set(re.findall(r"`((?:SIDECAR|CENTRAL)_[A-Z0-9_]+)`", page))
    return sorted(settings(tree) ^ documented)


def slugs(tree: Tree, service: str) -> Counter[str]:
    """How often each problem of a service is defined: `slug = "..."` in a class."""
    return Counter(
        statement.value.value
        for path, text in tree.items()
        if path.startswith(f"{service}/") and path.endswith(".py")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        and "slug" in ast.unparse(statement).partition("=")[0]
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def undocumented_problems(tree: Tree) -> list[str]:
    """Slugs defined and not documented (the first cell of a table row), or the reverse."""
    defined = {slug for package in PACKAGES for slug in slugs(tree, package)}
    page = tree.get("docs/problems.md", "")
    documented = set(re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE))
    return sorted(defined ^ documented)


def repeated_problems(tree: Tree) -> list[str]:
    return [
        f"{service}: {slug}"
        for service in SERVICES
        for slug, count in slugs(tree, service).items()
        if count > 1
    ]


def test_each_setting_is_in_the_operators_page(tree: Tree) -> None:
    assert undocumented_settings(tree) == []


def test_the_rule_sees_settings_on_one_side_only() -> None:
    page = "`SIDECAR_LISTEN` and `SIDECAR_GONE`"
    code = 'environment.text("LISTEN")\nenvironment.flag("NEW", True)'

    found = undocumented_settings({"docs/operations.md": page, "sidecar/settings.py": code})

    assert found == ["SIDECAR_GONE", "SIDECAR_NEW"]


def test_each_problem_is_unique_and_documented(tree: Tree) -> None:
    assert repeated_problems(tree) == []
    assert undocumented_problems(tree) == []


def test_the_rule_sees_problems_repeated_or_on_one_side_only() -> None:
    code = 'class A:\n    slug = "late"\nclass B:\n    slug: ClassVar[str] = "late"\n'
    tree = {"central/problems.py": code, "docs/problems.md": "| `gone` | 410 | |\n"}

    assert repeated_problems(tree) == ["central: late"]
    assert undocumented_problems(tree) == ["gone", "late"]
