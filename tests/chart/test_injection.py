"""The pod that comes back is exactly the expected one, by the policy's own CEL."""

import copy
from typing import Any

import pytest
import yaml

from tests.chart.cel import Evaluator
from tests.chart.pods import (
    CASES,
    ENDPOINTS,
    SPOOL_VOLUME,
    TOKEN_PATH,
    WORKLOAD_VOLUME,
    admitted,
    computing_unit,
    plain,
)
from tests.chart.rendering import Chart, Object, environment


@pytest.fixture(scope="session")
def policy(chart: Chart) -> Object:
    return chart.render().one("MutatingAdmissionPolicy")


@pytest.fixture(scope="session")
def sidecar(chart: Chart) -> dict[str, Any]:
    return chart.sidecar()


@pytest.mark.parametrize("case", CASES)
def test_the_pod_is_exactly_as_expected(
    evaluator: Evaluator, policy: Object, sidecar: dict[str, Any], case: str
) -> None:
    made = CASES[case]()

    pod = evaluator.mutated(policy, admitted(made.pod))

    assert pod == made.expected(sidecar)


@pytest.mark.parametrize("case", CASES)
def test_an_injected_pod_is_left_alone(evaluator: Evaluator, policy: Object, case: str) -> None:
    once = evaluator.mutated(policy, admitted(CASES[case]().pod))

    assert evaluator.mutated(policy, once) == once


def test_a_pod_that_brings_the_sidecar_still_loses_its_credentials(
    evaluator: Evaluator, policy: Object, sidecar: dict[str, Any]
) -> None:
    pod = computing_unit()
    own = sidecar | {"env": [{"name": "SIDECAR_CENTRAL_URL", "value": "http://elsewhere:7080"}]}
    pod["spec"]["initContainers"] = [own]

    mutated = evaluator.mutated(policy, admitted(pod))

    (container,) = mutated["spec"]["initContainers"]
    assert environment(container) == {"SIDECAR_CENTRAL_URL": "http://elsewhere:7080"}
    assert mutated["spec"]["containers"] == plain().expected(sidecar)["spec"]["containers"]
    assert mutated["spec"]["volumes"] == [SPOOL_VOLUME, WORKLOAD_VOLUME]


def test_a_later_injectors_container_is_cleaned_when_run_again(
    evaluator: Evaluator, policy: Object
) -> None:
    once = evaluator.mutated(policy, admitted(computing_unit()))
    once["spec"]["containers"].append(
        {"name": "late", "image": "x", "env": [{"name": "STORAGE_JDBC_URL", "value": "x"}]}
    )

    twice = evaluator.mutated(policy, once)

    assert policy["spec"]["reinvocationPolicy"] == "IfNeeded"
    assert twice["spec"]["containers"][1]["env"] == ENDPOINTS


def test_stripping_nothing_leaves_every_variable(evaluator: Evaluator, chart: Chart) -> None:
    policy = chart.render("injection-strips-nothing").one("MutatingAdmissionPolicy")
    before = computing_unit()["spec"]["containers"][0]["env"]

    pod = evaluator.mutated(policy, admitted(computing_unit()))

    assert pod["spec"]["containers"][0]["env"] == before + ENDPOINTS[:2]


def test_pull_secrets_are_added_once(evaluator: Evaluator, chart: Chart) -> None:
    policy = chart.render("injection-strips-everything").one("MutatingAdmissionPolicy")
    pod = computing_unit()
    pod["spec"]["imagePullSecrets"] = [{"name": "texera"}, {"name": "pull"}]

    mutated = evaluator.mutated(policy, admitted(pod))
    fresh = evaluator.mutated(policy, admitted(computing_unit()))

    assert mutated["spec"]["imagePullSecrets"] == [
        {"name": "texera"},
        {"name": "pull"},
        {"name": "other"},
    ]
    assert fresh["spec"]["imagePullSecrets"] == [{"name": "pull"}, {"name": "other"}]


def test_service_account_token_is_removed_from_every_mount(
    evaluator: Evaluator, policy: Object
) -> None:
    pod = admitted(computing_unit())
    mounts = pod["spec"]["containers"][0]["volumeMounts"]
    mounts.append(mounts[0] | {"mountPath": "/elsewhere"})

    mutated = evaluator.mutated(policy, pod)

    assert "volumeMounts" not in mutated["spec"]["containers"][0]
    assert TOKEN_PATH not in str(mutated)


def test_the_policy_holds_for_computing_units_only(policy: Object, chart: Chart) -> None:
    spec = policy["spec"]
    binding = chart.render().one("MutatingAdmissionPolicyBinding")["spec"]

    assert spec["failurePolicy"] == "Fail"
    constraints = spec["matchConstraints"]
    assert constraints["objectSelector"] == {"matchLabels": {"type": "computing-unit"}}
    assert constraints["namespaceSelector"] == {
        "matchLabels": {"kubernetes.io/metadata.name": "texera-workflow-computing-unit-pool"}
    }
    assert [rule["operations"] for rule in constraints["resourceRules"]] == [["CREATE"]]
    assert binding == {"policyName": policy["metadata"]["name"]}


def test_sidecar_keeps_readiness_and_qos_class_of_the_pod(
    sidecar: dict[str, Any],
) -> None:
    assert "readinessProbe" not in sidecar
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/readyz"
    # Ready or not, a restart would mend nothing: a volume that is gone, say.
    assert sidecar["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert sidecar["resources"]["requests"] == sidecar["resources"]["limits"]
    assert set(sidecar["resources"]["limits"]) == {"cpu", "memory"}


def test_sidecar_is_unprivileged_and_writes_to_its_volume_only(sidecar: dict[str, Any]) -> None:
    security = sidecar["securityContext"]

    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] not in {0, 1001}
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    spool, token = sidecar["volumeMounts"]
    assert spool == {"name": "cu-sidecar-spool", "mountPath": "/var/lib/sidecar"}
    assert environment(sidecar)["SIDECAR_SPOOL_DIR"] == spool["mountPath"]
    assert token["readOnly"] is True
    assert environment(sidecar)["SIDECAR_WORKLOAD_TOKEN_FILE"] == token["mountPath"] + "/token"


def test_without_the_second_factor_no_token_is_mounted(chart: Chart) -> None:
    objects = chart.render("injection-none", "workload-off")
    spec = yaml.safe_load(objects.one("ConfigMap", "pod-fragment")["data"]["pod.yaml"])["spec"]

    assert spec["volumes"] == [SPOOL_VOLUME]
    (sidecar,) = spec["initContainers"]
    assert [m["name"] for m in sidecar["volumeMounts"]] == ["cu-sidecar-spool"]
    assert "SIDECAR_WORKLOAD_TOKEN_FILE" not in environment(sidecar)


def test_policies_contain_names_of_stripped_variables_only(chart: Chart) -> None:
    objects = chart.render("injection-strips-everything")

    text = str([o for o in objects.all if "AdmissionPolicy" in o["kind"]])
    assert "STORAGE_JDBC_PASSWORD" in text
    assert "secretKeyRef" not in text.replace("s.secretRef", "")


def test_without_injection_no_policy_is_installed(chart: Chart) -> None:
    objects = chart.render("injection-none")

    assert not [kind for kind in objects.kinds() if "AdmissionPolicy" in kind]
    fragment = yaml.safe_load(objects.one("ConfigMap", "pod-fragment")["data"]["pod.yaml"])
    spec = copy.deepcopy(fragment["spec"])
    assert spec["automountServiceAccountToken"] is False
    assert spec["terminationGracePeriodSeconds"] == 45
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert spec["volumes"] == [SPOOL_VOLUME, WORKLOAD_VOLUME]
    (master,) = spec["containers"]
    assert master["env"] == ENDPOINTS[:2]
