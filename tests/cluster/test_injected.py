"""Pods created through a real API server come back injected and clean, or do not come back."""

import json
import shlex
from typing import Any

import pytest

from tests.chart.pods import CASES, Pod, computing_unit, variable
from tests.chart.rendering import POOL, Chart
from tests.chart.test_validation import DIRTY
from tests.cluster.clients import Cluster, Denied, refusal, upgraded
from tests.cluster.conftest import REFERENCE

# What the injection does not heal on the way in.
REFUSED_WHEN_CREATED = (
    "variables from a ConfigMap",
    "the node's network",
    "the node's processes",
    "shared processes",
    "the spool in another container",
    "a token for another audience",
    "the node's folders",
    "all of the node",
    "a privileged container",
)
REFUSED_WHEN_ADDED = (
    "a credential of an ephemeral container",
    "variables from a Secret",
    "the spool in an ephemeral container",
    "a debugger inside the sidecar",
    "a privileged debugger",
)


def sent_and_expected(cluster: Cluster, chart: Chart, case: str) -> tuple[Any, Any]:
    """The pod that came back, and the expected one with the defaults of the same server."""
    made = CASES[case]()
    reference = made.expected(chart.sidecar())
    reference["metadata"]["namespace"] = REFERENCE
    pods = [cluster.created(pod, "--dry-run=server") for pod in (made.pod, reference)]
    sent, expected = ({"labels": p["metadata"]["labels"], "spec": p["spec"]} for p in pods)
    return sent, expected


@pytest.mark.parametrize("case", sorted(CASES.keys() - {"with_env_from"}))
def test_a_pod_comes_back_exactly_as_expected(release: Cluster, chart: Chart, case: str) -> None:
    sent, expected = sent_and_expected(release, chart, case)

    assert sent == expected


def test_a_guaranteed_pod_stays_one(release: Cluster) -> None:
    pod = release.created(computing_unit(), "--dry-run=server")

    assert pod["status"]["qosClass"] == "Guaranteed"


@pytest.mark.parametrize("case", REFUSED_WHEN_CREATED)
def test_violating_pod_is_refused(release: Cluster, case: str) -> None:
    soil, sentence = DIRTY[case]
    pod = computing_unit()
    soil(pod)

    with pytest.raises(Denied) as denied:
        release.created(pod, "--dry-run=server")

    assert sentence in str(denied.value)
    assert "metadata-texera-cu-sidecar-guard" in str(denied.value)


@pytest.mark.parametrize("case", REFUSED_WHEN_ADDED)
def test_violating_ephemeral_container_is_refused(running_unit: Cluster, case: str) -> None:
    soil, sentence = DIRTY[case]
    pod = running_unit.get("pod", "computing-unit-7", f"--namespace={POOL}")
    soil(pod)

    with pytest.raises(Denied) as denied:
        add_ephemeral(running_unit, pod)

    assert sentence in str(denied.value)


def test_harmless_ephemeral_container_is_admitted(running_unit: Cluster) -> None:
    pod = running_unit.get("pod", "computing-unit-7", f"--namespace={POOL}")
    pod["spec"]["ephemeralContainers"] = [{"name": "debugger", "image": "busybox:1"}]

    add_ephemeral(running_unit, pod)


def test_a_pod_older_than_the_release_can_be_debugged(release: Cluster) -> None:
    """Made before the policies were: here, made with another label."""
    old = computing_unit()
    old["metadata"]["labels"]["type"] = "older"
    release.created(old)
    in_pool = f"--namespace={POOL}"
    try:
        release.kubectl(
            "label", "pod", "computing-unit-7", "type=computing-unit", "--overwrite", in_pool
        )
        pod = release.get("pod", "computing-unit-7", in_pool)
        pod["spec"]["ephemeralContainers"] = [{"name": "debugger", "image": "busybox:1"}]
        add_ephemeral(release, pod)
    finally:
        release.kubectl("delete", "pod", "computing-unit-7", in_pool, "--force")


def add_ephemeral(cluster: Cluster, pod: Pod) -> None:
    path = f"/api/v1/namespaces/{POOL}/pods/computing-unit-7/ephemeralcontainers"
    cluster.kubectl("replace", f"--raw={path}", "--filename=-", send=pod)


def test_other_pods_are_untouched(release: Cluster) -> None:
    prepull, elsewhere = computing_unit(), computing_unit()
    prepull["metadata"]["labels"] = {"app": "texera-cu-image-prepull"}
    elsewhere["metadata"]["namespace"] = REFERENCE

    for pod in (prepull, elsewhere):
        spec = release.created(pod, "--dry-run=server")["spec"]
        assert "initContainers" not in spec
        assert spec["containers"][0]["env"] == pod["spec"]["containers"][0]["env"]


def test_notes_list_pods_with_stripped_variables(release: Cluster, running_unit: Cluster) -> None:
    def shown() -> str:
        notes = release.helm("get", "notes", "metadata", "--namespace=texera")
        (line,) = (line for line in notes.splitlines() if line.startswith("  kubectl "))
        _, *arguments = shlex.split(line)
        return release.kubectl(*arguments, "--output=name").strip()

    before = shown()
    with upgraded(release, "injection-strips-everything"):
        after = shown()

    assert (before, after) == ("", "pod/computing-unit-7")


def test_injected_pods_pass_a_request_quota(release: Cluster) -> None:
    """Texera's chart sets one; every added container must declare what it takes."""
    hard = {"requests.cpu": "10", "requests.memory": "20Gi"}
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "pool", "namespace": POOL},
        "spec": {"hard": hard},
    }
    release.created(quota)
    # What its controller, which is not here, would write.
    used = {"requests.cpu": "0", "requests.memory": "0"}
    status = json.dumps({"status": {"hard": hard, "used": used}})
    release.kubectl(
        *("patch", "resourcequota", "pool", f"--namespace={POOL}"),
        *("--subresource=status", "--type=merge", f"--patch={status}"),
    )
    try:
        release.eventually(lambda: refusal(release, computing_unit()) is None)
        without = computing_unit()
        del without["spec"]["containers"][0]["resources"]
        with pytest.raises(Denied, match="must specify requests"):
            release.created(without, "--dry-run=server")
    finally:
        release.kubectl("delete", "resourcequota", "pool", f"--namespace={POOL}")


def test_a_catalog_without_its_credentials_is_refused(release: Cluster) -> None:
    pod = computing_unit()
    pod["spec"]["containers"][0]["env"] = [variable("STORAGE_ICEBERG_CATALOG_TYPE", "postgres")]
    # An earlier test's policies may be known to the server a little longer.
    release.eventually(lambda: refusal(release, pod) is None)

    with upgraded(release, "injection-strips-everything", "validation-warns"):
        release.eventually(lambda: refusal(release, pod) is not None)
        assert "set STORAGE_ICEBERG_CATALOG_TYPE to rest" in str(refusal(release, pod))


def test_warn_action_admits_with_a_warning(release: Cluster) -> None:
    pod = computing_unit()
    pod["spec"]["shareProcessNamespace"] = True

    with upgraded(release, "validation-warns"):
        release.eventually(lambda: refusal(release, pod) is None)
        said = release.kubectl_warnings("create", "--filename=-", "--dry-run=server", send=pod)

    assert "Warning" in said
    assert "would open the sidecar" in said
