"""The chart as real helm renders it."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm"
VALUES = Path(__file__).parent / "values"
FEATURES = sorted(path.stem for path in VALUES.glob("*.yaml"))
NAMESPACE = "texera"
POOL = "texera-workflow-computing-unit-pool"
RELEASE = "metadata"
RENDER_TIMEOUT_S = 60

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C is ten times as fast; a PyYAML built from source may lack it."""

Object: TypeAlias = Mapping[str, Any]
"""A Kubernetes object, as parsed."""


class Refused(Exception):
    """helm refused to render; the text is its message."""


@dataclass(frozen=True)
class Objects:
    """The output of one render."""

    all: Sequence[Object]

    def one(self, kind: str, name: str = "") -> Object:
        """The only object of its kind (whose name contains `name`)."""
        (found,) = self.of(kind, name)
        return found

    def of(self, kind: str, name: str = "") -> list[Object]:
        return [o for o in self.all if o["kind"] == kind and name in o["metadata"]["name"]]

    def kinds(self) -> set[str]:
        return {o["kind"] for o in self.all}


@dataclass(frozen=True)
class Chart:
    helm: Path
    _rendered: dict[str, Objects] = field(default_factory=dict)
    """By features and values, for no test changes them."""

    @property
    def template(self) -> list[str]:
        return [str(self.helm), "template", RELEASE, str(CHART), f"--namespace={NAMESPACE}"]

    def render(self, *features: str, **values: Any) -> Objects:
        """Base, the features' files and `values` (top-level keys), later ones override.

        Raises `Refused`.
        """
        key = json.dumps([features, values])
        if key not in self._rendered:
            self._rendered[key] = parsed(self.run(self.template, features, values))
        return self._rendered[key]

    def sidecar(self, *features: str) -> dict[str, Any]:
        """The injected container as `injection.mode: none` prints it: plain YAML, no CEL."""
        fragment = self.render(*features, "injection-none").one("ConfigMap", "pod-fragment")["data"]
        (container,) = yaml.safe_load(fragment["pod.yaml"])["spec"]["initContainers"]
        assert isinstance(container, dict)
        return container

    def lint(self, *features: str) -> str:
        """Raises `Refused`."""
        command = [str(self.helm), "lint", "--strict", str(CHART)]
        if "injection-beta" in features:
            command.append("--kube-version=1.35")  # deprecated from 1.37 on, which lint minds
        return self.run(command, features, {})

    def run(
        self, command: Sequence[str], features: Sequence[str] | None, values: Mapping[str, Any]
    ) -> str:
        """helm's standard output; without features not even the base is given."""
        names = [] if features is None else ["base", *features]
        files = [f"--values={VALUES / name}.yaml" for name in names]
        done = subprocess.run(
            [*command, *files, "--values=-"],
            input=yaml.safe_dump(dict(values)),
            capture_output=True,
            text=True,
            timeout=RENDER_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise Refused(done.stderr + done.stdout)
        return done.stdout


def parsed(text: str) -> Objects:
    return Objects([o for o in yaml.load_all(text, LOADER) if o is not None])


def environment(container: Object) -> dict[str, Any]:
    """A container's variables: the value, or `valueFrom` of a reference."""
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in container.get("env", [])}
