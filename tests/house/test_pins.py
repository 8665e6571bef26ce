"""What is installed: the services run on the versions that the tests ran on."""

import re

from tests.house.conftest import Tree

PIN = re.compile(r"^([a-z0-9.-]+)==(\S+)", re.MULTILINE)


def other_pins(tree: Tree) -> list[str]:
    """Pins of a service that are not those of requirements/dev.txt."""
    tested = set(PIN.findall(tree["requirements/dev.txt"]))
    return [
        f"{service}: {name}=={version}"
        for service in ("sidecar", "central")
        for name, version in PIN.findall(tree[f"requirements/{service}.txt"])
        if (name, version) not in tested
    ]


def test_the_services_run_on_tested_versions(tree: Tree) -> None:
    assert other_pins(tree) == []
    made_up = {"requirements/dev.txt": "a==1 \\\n", "requirements/central.txt": "a==2 \\\n"}
    assert other_pins({"requirements/sidecar.txt": "", **made_up}) == ["central: a==2"]
