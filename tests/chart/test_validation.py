"""The second lock: what it refuses, by its own CEL, and that a clean pod passes."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.chart.cel import Evaluator
from tests.chart.pods import CASES, TOKEN_PATH, Pod, admitted, computing_unit, variable
from tests.chart.rendering import Chart, Object, Objects

GUARD, ICEBERG = "-guard", "-iceberg"


@pytest.fixture(scope="session")
def objects(chart: Chart) -> Objects:
    return chart.render()


@pytest.fixture(scope="session")
def guard(objects: Objects) -> Object:
    return objects.one("ValidatingAdmissionPolicy", GUARD)


@pytest.fixture
def clean(evaluator: Evaluator, objects: Objects) -> Pod:
    policy = objects.one("MutatingAdmissionPolicy")
    return evaluator.mutated(policy, admitted(computing_unit()))


def master(pod: Pod) -> Any:
    return pod["spec"]["containers"][0]


def init(pod: Pod) -> Any:
    return pod["spec"]["initContainers"]


def debug(pod: Pod, **fields: Any) -> None:
    container = {"name": "debugger", "image": "busybox:1", "env": [], **fields}
    pod["spec"].setdefault("ephemeralContainers", []).append(container)


def mount_a_token(pod: Pod) -> None:
    source = {"serviceAccountToken": {"audience": "anything", "path": "token"}}
    pod["spec"].setdefault("volumes", []).append(
        {"name": "mine", "projected": {"sources": [source]}}
    )
    master(pod)["volumeMounts"] = [{"name": "mine", "mountPath": "/token"}]


def show_a_folder_of_the_node(pod: Pod, path: str) -> None:
    pod["spec"]["volumes"] = [
        *pod["spec"].get("volumes", []),
        {"name": "node", "hostPath": {"path": path}},
    ]
    master(pod)["volumeMounts"] = [{"name": "node", "mountPath": "/node"}]


DIRTY: dict[str, tuple[Callable[[Pod], Any], str]] = {
    "a credential by value": (
        lambda pod: master(pod)["env"].append(variable("STORAGE_JDBC_PASSWORD", "x")),
        "computing-unit-master: STORAGE_JDBC_PASSWORD",
    ),
    "a credential by reference": (
        lambda pod: master(pod)["env"].append(
            {"name": "USER_JWT_TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
        ),
        "computing-unit-master: USER_JWT_TOKEN",
    ),
    "an empty credential": (
        lambda pod: master(pod)["env"].append({"name": "STORAGE_JDBC_URL"}),
        "computing-unit-master: STORAGE_JDBC_URL",
    ),
    "a signing secret beside the random one": (
        lambda pod: master(pod)["env"].append(variable("AUTH_JWT_SECRET", "8a1204762fd6c3a9")),
        "computing-unit-master: AUTH_JWT_SECRET",
    ),
    "a signing secret by reference": (
        lambda pod: master(pod)["env"].append(
            {"name": "AUTH_JWT_SECRET", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
        ),
        "computing-unit-master: AUTH_JWT_SECRET",
    ),
    "a credential of an init container": (
        lambda pod: init(pod).insert(
            0, {"name": "warm-up", "image": "x", "env": [variable("STORAGE_JDBC_URL", "x")]}
        ),
        "warm-up: STORAGE_JDBC_URL",
    ),
    "a credential of an ephemeral container": (
        lambda pod: debug(pod, env=[variable("STORAGE_JDBC_URL", "x")]),
        "debugger: STORAGE_JDBC_URL",
    ),
    "variables from a ConfigMap": (
        lambda pod: master(pod).update(envFrom=[{"configMapRef": {"name": "texera-env"}}]),
        "validation.allowedEnvFrom",
    ),
    "variables from a Secret": (
        lambda pod: debug(pod, envFrom=[{"secretRef": {"name": "texera-env"}}]),
        "validation.allowedEnvFrom",
    ),
    "the node's network": (
        lambda pod: pod["spec"].update(hostNetwork=True),
        "would open the sidecar",
    ),
    "the node's processes": (
        lambda pod: pod["spec"].update(hostPID=True),
        "would open the sidecar",
    ),
    "shared processes": (
        lambda pod: pod["spec"].update(shareProcessNamespace=True),
        "would open the sidecar",
    ),
    "the spool in another container": (
        lambda pod: master(pod).update(
            volumeMounts=[{"name": "cu-sidecar-spool", "mountPath": "/spool", "readOnly": True}]
        ),
        "mounts the sidecar's volumes or a service-account token",
    ),
    "the sidecar's token in another container": (
        lambda pod: master(pod).update(
            volumeMounts=[{"name": "cu-sidecar-token", "mountPath": "/token"}]
        ),
        "mounts the sidecar's volumes or a service-account token",
    ),
    "the spool in an init container": (
        lambda pod: init(pod).append(
            {
                "name": "peek",
                "image": "x",
                "volumeMounts": [{"name": "cu-sidecar-spool", "mountPath": "/spool"}],
            }
        ),
        "mounts the sidecar's volumes or a service-account token",
    ),
    "the spool in an ephemeral container": (
        lambda pod: debug(pod, volumeMounts=[{"name": "cu-sidecar-spool", "mountPath": "/spool"}]),
        "mounts the sidecar's volumes or a service-account token",
    ),
    "a token for another audience": (
        mount_a_token,
        "mounts the sidecar's volumes or a service-account token",
    ),
    "the service account's mount": (
        lambda pod: master(pod).update(volumeMounts=[{"name": "x", "mountPath": TOKEN_PATH}]),
        "a service-account token is mounted",
    ),
    "a token to be mounted": (
        lambda pod: pod["spec"].update(automountServiceAccountToken=True),
        "a service-account token is mounted",
    ),
    "no word on the token": (
        lambda pod: pod["spec"].pop("automountServiceAccountToken"),
        "a service-account token is mounted",
    ),
    "the service account's mount by another way": (
        lambda pod: master(pod).update(
            volumeMounts=[{"name": "x", "mountPath": TOKEN_PATH.removeprefix("/var") + "/"}]
        ),
        "a service-account token is mounted",
    ),
    "the node's folders": (
        lambda pod: show_a_folder_of_the_node(pod, "/var/lib/kubelet/pods"),
        "validation.allowedHostPaths does not name",
    ),
    "all of the node": (
        lambda pod: show_a_folder_of_the_node(pod, "/"),
        "validation.allowedHostPaths does not name",
    ),
    "a folder named like the mounter's": (
        lambda pod: show_a_folder_of_the_node(pod, "/mnt/texera-mounts-too"),
        "validation.allowedHostPaths does not name",
    ),
    "a privileged container": (
        lambda pod: master(pod).update(securityContext={"privileged": True}),
        "a privileged container",
    ),
    "a privileged debugger": (
        lambda pod: debug(pod, securityContext={"privileged": True}),
        "a privileged container",
    ),
    "no sidecar": (lambda pod: pod["spec"].pop("initContainers"), "the pod has no sidecar"),
    "another program in the sidecar": (
        lambda pod: init(pod)[0].update(command=["/bin/sh", "-c", "cat /var/run/secrets/*/*"]),
        "not the one that was installed",
    ),
    "other arguments of the sidecar": (
        lambda pod: init(pod)[0].update(args=["spool", "export"]),
        "not the one that was installed",
    ),
    "a sidecar as the computing unit's user": (
        lambda pod: init(pod)[0]["securityContext"].update(runAsUser=1001),
        "not the one that was installed",
    ),
    "a sidecar of another image": (
        lambda pod: init(pod)[0].update(image="texera-cu-sidecar:evil"),
        "not the one that was installed",
    ),
    "a sidecar that ends before the unit starts": (
        lambda pod: init(pod)[0].pop("restartPolicy"),
        "not the one that was installed",
    ),
    "a sidecar that can unpublish the unit": (
        lambda pod: init(pod)[0].update(readinessProbe={"httpGet": {"path": "/", "port": 1}}),
        "not the one that was installed",
    ),
    "a debugger inside the sidecar": (
        lambda pod: debug(pod, targetContainerName="cu-sidecar"),
        "must not enter the sidecar's process namespace",
    ),
}


@pytest.mark.parametrize("case", DIRTY)
def test_each_violation_is_refused_with_its_message(
    evaluator: Evaluator, guard: Object, clean: Pod, case: str
) -> None:
    soil, sentence = DIRTY[case]

    soil(clean)

    (refusal,) = evaluator.refusals(guard, clean)
    assert sentence in refusal


CERTIFICATE = "metadata-texera-cu-sidecar-client-tls"
MOUNTED = {"volumeMounts": [{"name": "mine", "mountPath": "/tls"}]}
TAKEN: dict[str, tuple[Pod, Pod, str]] = {
    "by a volume of its Secret": (
        {"secret": {"secretName": CERTIFICATE}},
        MOUNTED,
        "mounts the sidecar's volumes",
    ),
    "by a projected volume": (
        {"projected": {"sources": [{"secret": {"name": CERTIFICATE}}]}},
        MOUNTED,
        "mounts the sidecar's volumes",
    ),
    "by the sidecar's own volume": (
        {"emptyDir": {}},
        {"volumeMounts": [{"name": "cu-sidecar-tls", "mountPath": "/tls"}]},
        "mounts the sidecar's volumes",
    ),
    "into a variable": (
        {"emptyDir": {}},
        {
            "env": [
                {
                    "name": "KEY",
                    "valueFrom": {"secretKeyRef": {"name": CERTIFICATE, "key": "tls.key"}},
                }
            ]
        },
        "takes the sidecar's certificate into a variable",
    ),
}


@pytest.mark.parametrize("case", TAKEN)
def test_the_sidecars_certificate_is_for_the_sidecar_alone(
    evaluator: Evaluator, chart: Chart, case: str
) -> None:
    objects = chart.render("tls-clients")
    guard = objects.one("ValidatingAdmissionPolicy", GUARD)
    pod = evaluator.mutated(objects.one("MutatingAdmissionPolicy"), admitted(computing_unit()))
    assert evaluator.refusals(guard, pod) == []
    volume, taken, sentence = TAKEN[case]

    pod["spec"]["volumes"].append({"name": "mine"} | volume)
    debug(pod, **taken)

    (refusal,) = evaluator.refusals(guard, pod)
    assert sentence in refusal


@pytest.mark.parametrize("case", sorted(CASES.keys() - {"with_env_from"}))
def test_an_injected_pod_passes(
    evaluator: Evaluator, objects: Objects, guard: Object, case: str
) -> None:
    pod = evaluator.mutated(objects.one("MutatingAdmissionPolicy"), admitted(CASES[case]().pod))

    assert evaluator.refusals(guard, pod) == []


def test_a_pod_that_was_not_injected_is_refused(evaluator: Evaluator, guard: Object) -> None:
    refusals = evaluator.refusals(guard, admitted(computing_unit()))

    assert len(refusals) == 4  # no sidecar, credentials, the token's volume and its mount
    for name in ("STORAGE_JDBC_URL", "STORAGE_JDBC_PASSWORD", "AUTH_JWT_SECRET", "USER_JWT_TOKEN"):
        assert f"computing-unit-master: {name}" in " ".join(refusals)


def test_harmless_ephemeral_container_passes(
    evaluator: Evaluator, guard: Object, clean: Pod
) -> None:
    debug(clean, targetContainerName="computing-unit-master")

    assert evaluator.refusals(guard, clean) == []


def test_a_pod_older_than_the_release_can_be_debugged(evaluator: Evaluator, guard: Object) -> None:
    """With credentials, without a sidecar: what the debugger brings is judged, not the pod."""
    old = admitted(computing_unit())

    debug(old)
    assert evaluator.refusals(guard, old) == []

    debug(old, name="another", env=[variable("STORAGE_JDBC_URL", "x")])
    assert len(evaluator.refusals(guard, old)) == 1


def test_allowed_env_from_sources_pass(evaluator: Evaluator, chart: Chart, clean: Pod) -> None:
    guard = chart.render("validation-warns").one("ValidatingAdmissionPolicy", GUARD)
    sources = [{"configMapRef": {"name": "texera-env"}}, {"secretRef": {"name": "texera-s3"}}]

    master(clean)["envFrom"] = sources
    assert evaluator.refusals(guard, clean) == []

    master(clean)["envFrom"] = [{"configMapRef": {"name": "texera-s3"}}]
    assert len(evaluator.refusals(guard, clean)) == 1


def test_the_guard_sees_ephemeral_containers_too(guard: Object) -> None:
    rules = guard["spec"]["matchConstraints"]["resourceRules"]

    assert [(r["resources"], r["operations"]) for r in rules] == [
        (["pods"], ["CREATE"]),
        (["pods/ephemeralcontainers"], ["UPDATE"]),
    ]
    assert guard["spec"]["failurePolicy"] == "Fail"


def test_a_value_says_whether_it_refuses_or_warns(chart: Chart) -> None:
    def actions(*features: str) -> list[str]:
        objects = chart.render(*features)
        found: list[str] = objects.one("ValidatingAdmissionPolicyBinding", GUARD)["spec"][
            "validationActions"
        ]
        return found

    assert actions() == ["Deny"]
    assert actions("validation-warns") == ["Warn", "Audit"]
    assert chart.render("validation-off").of("ValidatingAdmissionPolicy") == []


def test_an_iceberg_catalog_without_its_credentials_is_refused(
    evaluator: Evaluator, chart: Chart
) -> None:
    objects = chart.render("injection-strips-everything", "validation-off")
    policy = objects.one("ValidatingAdmissionPolicy", ICEBERG)
    binding = objects.one("ValidatingAdmissionPolicyBinding", ICEBERG)
    pod = computing_unit()

    assert evaluator.refusals(policy, pod) == []
    for catalog in ("postgres", "POSTGRES"):
        master(pod)["env"] = [variable("STORAGE_ICEBERG_CATALOG_TYPE", catalog)]
        (refusal,) = evaluator.refusals(policy, pod)
        assert "set STORAGE_ICEBERG_CATALOG_TYPE to rest" in refusal
    assert binding["spec"]["validationActions"] == ["Deny"]
    assert chart.render().of("ValidatingAdmissionPolicy", ICEBERG) == []
