"""The second factor, with tokens and keys of a real API server, by the settings of the chart."""

import json
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from central.app import build_workload_verifier
from central.auth.workload_tokens import WorkloadVerifier
from central.metrics import Metrics
from central.problems import WorkloadInvalid
from central.settings import read_settings
from tests.chart.rendering import NAMESPACE, POOL, Chart
from tests.chart.test_environment import only_container, variables
from tests.cluster.clients import Cluster

CLUSTER = "https://kubernetes.default.svc"


@pytest.fixture
def verifier(running_unit: Cluster, chart: Chart, tmp_path: Path) -> WorkloadVerifier:
    """What central makes of the chart's settings, with files and host of this machine."""
    own = tmp_path / "token"
    own.write_text(running_unit.kubectl("create", "token", "default", f"--namespace={NAMESPACE}"))
    given = dict(variables(only_container(chart.render().one("Deployment"))))
    assert given["CENTRAL_WORKLOAD_JWKS"] == f"{CLUSTER}/openid/v1/jwks"
    given["CENTRAL_WORKLOAD_JWKS"] = f"{running_unit.plane.url}/openid/v1/jwks"
    given["CENTRAL_WORKLOAD_JWKS_TOKEN_FILE"] = str(own)
    given["CENTRAL_JWKS_CA_FILE"] = str(running_unit.plane.authority)
    settings = read_settings(given).workloads
    assert settings is not None
    return build_workload_verifier(settings, Metrics(CollectorRegistry()))


def projected(cluster: Cluster, name: str = "computing-unit-7", **changes: str) -> str:
    """A token as the kubelet asks for it, by what the injected pod says of its volume."""
    pod = cluster.get("pod", name, f"--namespace={POOL}")
    (volume,) = (v for v in pod["spec"]["volumes"] if v["name"] == "cu-sidecar-token")
    (source,) = volume["projected"]["sources"]
    wanted = source["serviceAccountToken"] | changes
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": [wanted["audience"]],
            "expirationSeconds": wanted["expirationSeconds"],
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name},
        },
    }
    path = f"/api/v1/namespaces/{POOL}/serviceaccounts/default/token"
    response = json.loads(cluster.kubectl("create", f"--raw={path}", "--filename=-", send=request))
    return str(response["status"]["token"])


async def test_a_pods_token_names_its_computing_unit(
    running_unit: Cluster, verifier: WorkloadVerifier
) -> None:
    workload = await verifier.verify(projected(running_unit))

    assert workload.unit_id == 7
    assert workload.is_enforced


async def test_token_for_another_audience_is_refused(
    running_unit: Cluster, verifier: WorkloadVerifier
) -> None:
    with pytest.raises(WorkloadInvalid, match="for somebody else"):
        await verifier.verify(projected(running_unit, audience="vault"))


async def test_token_without_a_pod_is_refused(
    running_unit: Cluster, verifier: WorkloadVerifier
) -> None:
    audience = "--audience=texera-execution-metadata"
    token = running_unit.kubectl("create", "token", "default", f"--namespace={POOL}", audience)

    with pytest.raises(WorkloadInvalid):
        await verifier.verify(token.strip())
