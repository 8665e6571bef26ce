"""helm and kubectl against a running API server."""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.kube.control_plane import ControlPlane
from dev.polling import wait_until
from tests.chart.rendering import CHART, NAMESPACE, RELEASE, VALUES

COMMAND_TIMEOUT_S = 90
IN_FORCE_TIMEOUT_S = 60.0
"""The API server applies a new policy within a second or two."""


class Denied(Exception):
    """The command failed; the text is its error output."""


@dataclass(frozen=True)
class Cluster:
    """An API server, seen by its administrator."""

    helm_program: Path
    kubectl_program: Path
    plane: ControlPlane
    home: Path
    """Where helm keeps its own files."""

    def kubectl(self, *arguments: str, send: Mapping[str, Any] | str | None = None) -> str:
        """Raises `Denied`."""
        return self._run([str(self.kubectl_program), *arguments], send)[0]

    def kubectl_warnings(self, *arguments: str, send: Mapping[str, Any]) -> str:
        """The standard error of a successful command."""
        return self._run([str(self.kubectl_program), *arguments], send)[1]

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def created(self, item: Mapping[str, Any], *options: str) -> Any:
        """The object as the API server returns it. --dry-run=server stores nothing."""
        response = self.kubectl("create", "--filename=-", "--output=json", *options, send=item)
        return json.loads(response)

    def helm(self, *arguments: str) -> str:
        """Raises `Denied`."""
        return self._run([str(self.helm_program), *arguments], None)[0]

    def release(self, verb: str, *features: str, options: tuple[str, ...] = ()) -> str:
        """`helm install` or `upgrade` with the base and the features' files."""
        return self.helm(*release_arguments(verb, *features), *options)

    def eventually(self, condition: Callable[[], bool]) -> None:
        assert wait_until(condition, IN_FORCE_TIMEOUT_S)

    def environment(self) -> dict[str, str]:
        home = str(self.home)
        return {"HOME": home, "KUBECONFIG": str(self.plane.kubeconfig), "PATH": "/usr/bin:/bin"}

    def _run(self, command: list[str], send: Mapping[str, Any] | str | None) -> tuple[str, str]:
        done = subprocess.run(
            command,
            input=send if isinstance(send, str) or send is None else json.dumps(send),
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise Denied(done.stderr + done.stdout)
        return done.stdout, done.stderr


def release_arguments(verb: str, *features: str) -> list[str]:
    files = [f"--values={VALUES / name}.yaml" for name in ("base", *features)]
    return [verb, RELEASE, str(CHART), f"--namespace={NAMESPACE}", *files]


def refusal(cluster: Cluster, item: Mapping[str, Any]) -> str | None:
    """The API server's refusal of the object, or an empty text."""
    try:
        cluster.created(item, "--dry-run=server")
    except Denied as denied:
        return str(denied)
    return None


@contextmanager
def upgraded(cluster: Cluster, *features: str) -> Iterator[None]:
    """The release with other values, for the block."""
    cluster.release("upgrade", *features, options=("--no-hooks",))
    try:
        yield
    finally:
        cluster.release("upgrade", options=("--no-hooks",))
