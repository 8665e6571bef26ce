"""Every feature renders, lints, and is what Kubernetes takes."""

import pytest

from dev.kube.chart_files import BY_THE_CHART
from tests.chart.rendering import CHART, FEATURES, NAMESPACE, POOL, Chart, parsed
from tests.chart.schemas import KUBERNETES_VERSIONS, faults

CUSTOM = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "Certificate"}
"""Kinds of operators', without a schema here; test_monitoring and test_tls look at them."""
CLUSTER_WIDE = {
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


@pytest.mark.parametrize("feature", FEATURES)
def test_each_feature_is_valid_kubernetes(chart: Chart, feature: str) -> None:
    objects = chart.render(feature)

    assert objects.all
    for version in KUBERNETES_VERSIONS:
        for item in objects.all:
            if item["kind"] not in CUSTOM:
                assert faults(item, version) == []


@pytest.mark.parametrize("feature", FEATURES)
def test_each_feature_passes_the_strict_lint(chart: Chart, feature: str) -> None:
    assert "0 chart(s) failed" in chart.lint(feature)


@pytest.mark.parametrize("feature", FEATURES)
def test_every_object_has_namespace_and_labels(chart: Chart, feature: str) -> None:
    objects = chart.render(feature)

    for item in objects.all:
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["app.kubernetes.io/instance"] == "metadata"
        namespace = item["metadata"].get("namespace")
        assert (namespace is None) == (item["kind"] in CLUSTER_WIDE)
        assert namespace in {None, NAMESPACE, POOL}


@pytest.mark.parametrize("feature", FEATURES)
def test_no_object_holds_a_secret(chart: Chart, feature: str) -> None:
    objects = chart.render(feature)

    # But for the certificates that the chart makes itself.
    assert {o["type"] for o in objects.of("Secret")} <= {"kubernetes.io/tls"}
    assert bool(objects.of("Secret")) == (feature in {"tls-self-signed", "tls-clients"})
    for item in [*objects.of("Deployment"), *objects.of("Job")]:
        (container,) = item["spec"]["template"]["spec"]["containers"]
        for variable in container["env"]:
            if BY_THE_CHART.get(variable["name"], "").startswith("from the Secret"):
                assert "secretKeyRef" in variable["valueFrom"]


@pytest.mark.parametrize("example", sorted(path.name for path in CHART.glob("examples/*.yaml")))
def test_each_example_renders_unchanged(chart: Chart, example: str) -> None:
    command = [*chart.template, f"--values={CHART / 'examples' / example}"]

    objects = parsed(chart.run(command, None, {}))

    assert objects.one("Deployment")
    for item in objects.all:
        if item["kind"] not in CUSTOM:
            assert faults(item, KUBERNETES_VERSIONS[-1]) == []


def test_schemas_detect_errors(chart: Chart) -> None:
    service = dict(chart.render().one("Service"))

    for version in KUBERNETES_VERSIONS:
        assert faults(service | {"spec": {"porst": []}}, version) != []
