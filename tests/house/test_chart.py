"""The chart knows every setting of the two services, and what is made from other files is."""

import re

from dev.kube import chart_files
from tests.house.conftest import Tree
from tests.house.test_documents import settings


def unknown_settings(tree: Tree) -> list[str]:
    """Settings that can neither be given under `settings` nor are the chart's own."""
    readme = tree.get("helm/README.md", "")
    return sorted(name for name in settings(tree) if f"| `{name}` |" not in readme)


def test_every_setting_is_in_the_chart(tree: Tree) -> None:
    assert unknown_settings(tree) == [], "run `make chart`"
    code = {"sidecar/settings.py": 'environment.text("NEW")', "helm/README.md": ""}
    assert unknown_settings(code) == ["SIDECAR_NEW"]


def test_what_the_chart_sets_itself_exists(tree: Tree) -> None:
    """`dev/kube/chart_files.py` lists those, with the reason for each."""
    known = {s.name for service in chart_files.SERVICES for s in chart_files.read_settings(service)}

    assert chart_files.BY_THE_CHART.keys() - known == set()
    assert known >= settings(tree)


def test_the_generated_files_are_up_to_date() -> None:
    for path, text in chart_files.generated().items():
        assert path.read_text() == text, f"{path.name}: run `make chart`"


def test_every_alert_has_its_runbook(tree: Tree) -> None:
    """What it means, how to look, what to do, and how to see that it is over."""
    names = re.findall(r"- alert: (\w+)", tree["helm/templates/monitoring/prometheusrule.yaml"])
    sections = {
        part.partition("\n")[0]: part for part in tree["docs/runbooks.md"].split("\n## ")[1:]
    }

    assert list(sections) == names
    for name, section in sections.items():
        headings = re.findall(r"^\*\*(.*?)\*\*", section, re.MULTILINE)
        assert headings == ["Means.", "Look.", "Do.", "Over"], name
