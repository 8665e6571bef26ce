"""A real API server with the chart on it.

Where its programs have not been built (`make test-cluster` builds them) the tests are skipped.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dev.kube import binaries, control_plane, tools
from dev.kube.tools import ToolMissing
from tests.chart.pods import computing_unit
from tests.chart.rendering import NAMESPACE, POOL, RELEASE, Chart
from tests.cluster.clients import Cluster, Denied

REFERENCE = "reference"
"""A namespace without policies: what a pod is once the API server has filled in its defaults."""


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server with the namespaces, and what controllers would have put into them."""
    with running_cluster(tmp_path_factory) as cluster:
        yield cluster


@contextmanager
def running_cluster(
    folders: pytest.TempPathFactory, *options: str, modules: Path = binaries.NEWEST
) -> Iterator[Cluster]:
    """The API server of these modules, started with these options too."""
    programs = binaries.built(modules)
    if programs is None:
        pytest.skip("not run: kube-apiserver is not built here; `make test-cluster` does it")
    try:
        helm, kubectl = tools.helm(), tools.kubectl()
    except ToolMissing as missing:
        pytest.skip(f"not run: {missing}")
    with control_plane.running(programs, folders.mktemp("cluster"), *options) as plane:
        cluster = Cluster(helm, kubectl, plane, folders.mktemp("home"))
        for namespace in (NAMESPACE, POOL, REFERENCE):
            cluster.kubectl("create", "namespace", namespace)
            cluster.kubectl("create", "serviceaccount", "default", f"--namespace={namespace}")
        cluster.created(
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "nvidia"},
                "handler": "nvidia",
            }
        )
        yield cluster


@pytest.fixture(scope="session")
def chart(kubernetes: Cluster) -> Chart:
    return Chart(kubernetes.helm_program)


@pytest.fixture(scope="module")
def release(kubernetes: Cluster) -> Iterator[Cluster]:
    """The cluster with the chart installed and its policies in force."""
    with installed(kubernetes):
        yield kubernetes


@contextmanager
def installed(cluster: Cluster, *features: str) -> Iterator[None]:
    cluster.release("install", *features, options=("--no-hooks",))
    cluster.eventually(lambda: is_injected(cluster) is True)
    yield
    cluster.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--no-hooks")
    cluster.eventually(lambda: is_injected(cluster) is False)


def is_injected(cluster: Cluster) -> bool | None:
    """Whether a computing unit would get the sidecar now; None if it is refused."""
    pod = computing_unit()
    pod["metadata"]["name"] = "probe"
    try:
        return "initContainers" in cluster.created(pod, "--dry-run=server")["spec"]
    except Denied:  # the guard is in force before the injection, or after it
        return None


@pytest.fixture
def running_unit(release: Cluster) -> Iterator[Cluster]:
    """The cluster with a running computing unit."""
    release.created(computing_unit())
    yield release
    release.kubectl("delete", "pod", "computing-unit-7", f"--namespace={POOL}", "--force")
