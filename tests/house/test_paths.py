"""Every file that a document names exists."""

import re
from pathlib import PurePosixPath

from tests.house.conftest import Tree

CODE = re.compile(r"`([^`\s]+)`")
LINK = re.compile(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)")
PLACEHOLDER = re.compile(r"[{}<>*|$…]|\.\.\.|NNNN|[A-Z]{2,}/")
SUPERSEDED = re.compile(r"^## Status\n\nSuperseded", re.MULTILINE)
"""A superseded decision may name files that went."""


def documents(tree: Tree) -> dict[str, str]:
    return {
        path: text
        for path, text in tree.items()
        if path.endswith(".md")
        and (path.startswith(("docs/", "README", "helm/")))
        and not SUPERSEDED.search(text)
    }


def missing_paths(tree: Tree) -> list[str]:
    """Paths in backticks, from the root, and targets of links, from the document's folder."""
    folders = {str(folder) for path in tree for folder in PurePosixPath(path).parents}
    roots = {folder for folder in folders if "/" not in folder and folder != "."}
    known = set(tree) | folders
    missing = []
    for document, text in documents(tree).items():
        folder = PurePosixPath(document).parent
        named = [
            code.partition("::")[0].rstrip("/")
            for code in CODE.findall(text)
            if code.partition("/")[0] in roots and "/" in code and not PLACEHOLDER.search(code)
        ]
        for link in LINK.findall(text):
            parts: list[str] = []
            for part in (folder / link).parts:
                if part == "..":
                    parts.pop()
                else:
                    parts.append(part)
            named.append("/".join(parts))
        missing += [f"{document}: {path}" for path in named if path not in known]
    return missing


def missing_decisions(tree: Tree) -> list[str]:
    """Numbers of ADRs that some file names and docs/adr does not have."""
    known = {int(match[1]) for path in tree if (match := re.match(r"docs/adr/(\d{4})-", path))}
    return sorted(
        f"{path}: ADR {number}"
        for path, text in tree.items()
        if path != "tests/house/test_paths.py"
        for number in re.findall(r"\bADRs? (\d+)", text)
        if int(number) not in known
    )


def incomplete_decisions(tree: Tree) -> list[str]:
    headings = ("Status", "Context", "Decision", "Consequences", "A violating change")
    return [
        f"{path}: {heading}"
        for path, text in decisions(tree).items()
        for heading in headings
        if f"\n## {heading}\n\n" not in text
    ] + [
        f"{path}: longer than 60 lines"
        for path, text in decisions(tree).items()
        if text.count("\n") > 60
    ]


def decisions(tree: Tree) -> dict[str, str]:
    return {path: tree[path] for path in sorted(tree) if re.match(r"docs/adr/\d{4}-", path)}


def unindexed_decisions(tree: Tree) -> list[str]:
    """Rows that the index of decisions lacks, and rows of decisions that are not so (any more)."""
    rows = set()
    for path, text in decisions(tree).items():
        title = re.match(r"# (\d+)\. (.+)\n", text)
        status = re.search(r"\n## Status\n\n([^.]+)\.", text)
        if title is None or status is None:
            return [f"{path}: no title or status"]
        link = f"[{title[1]}]({PurePosixPath(path).name})"
        rows.add(f"| {link} | {title[2]} | {' '.join(status[1].split())} |")
    indexed = re.findall(r"^\| \[\d.*\|$", tree.get("docs/adr/README.md", ""), re.MULTILINE)
    return sorted(rows ^ set(indexed))


def missing_documents(tree: Tree) -> list[str]:
    """Documents that some file cites (an upper-case name with .md) and the tree does not have."""
    known = {PurePosixPath(path).name for path in tree}
    return sorted(
        f"{path}: {name}"
        for path, text in tree.items()
        if path != "tests/house/test_paths.py"
        for name in re.findall(r"\b[A-Z]+\.md\b", text)
        if name not in known
    )


def test_each_document_that_is_cited_exists(tree: Tree) -> None:
    assert missing_documents(tree) == []
    assert missing_documents({"a.py": "as PLAN.md says"}) == ["a.py: PLAN.md"]


def test_each_path_in_a_document_exists(tree: Tree) -> None:
    assert missing_paths(tree) == []


def test_the_rule_sees_paths_and_links_to_missing_files() -> None:
    text = "`kit/a.py` `kit/b.py::test` `kit/{name}.py` `a/b` [x](adr/0001-x.md) [y](https://y)"

    assert missing_paths({"kit/a.py": "", "docs/page.md": text}) == [
        "docs/page.md: kit/b.py",
        "docs/page.md: docs/adr/0001-x.md",
    ]


def test_each_decision_that_is_named_exists_and_is_complete(tree: Tree) -> None:
    assert missing_decisions(tree) == []
    assert incomplete_decisions(tree) == []
    assert missing_decisions({"a.py": "as ADR 7 says"}) == ["a.py: ADR 7"]
    assert "docs/adr/0001-x.md: Status" in incomplete_decisions({"docs/adr/0001-x.md": "# 1. X"})


def test_the_index_of_decisions_has_each_with_its_title_and_status(tree: Tree) -> None:
    assert unindexed_decisions(tree) == []


def test_the_rule_sees_decisions_missing_or_wrong_in_the_index() -> None:
    decision = "# 1. X\n\n## Status\n\nSuperseded by ADR 2. More.\n"
    tree = {
        "docs/adr/0001-x.md": decision,
        "docs/adr/README.md": "| [1](0001-x.md) | X | Accepted |",
    }

    assert unindexed_decisions(tree) == [
        "| [1](0001-x.md) | X | Accepted |",
        "| [1](0001-x.md) | X | Superseded by ADR 2 |",
    ]
