"""Central's objects: what matters about them."""

from typing import Any

import pytest

from tests.chart.rendering import Chart, Object, Objects, Refused, environment


def pod(objects: Objects) -> Object:
    spec: Object = objects.one("Deployment")["spec"]["template"]["spec"]
    return spec


def container(objects: Objects) -> Any:
    (found,) = pod(objects)["containers"]
    return found


def test_secrets_are_references(chart: Chart) -> None:
    variables = environment(container(chart.render()))

    secret = {"name": "central-database", "key": "url"}
    assert variables["CENTRAL_DATABASE_URL"] == {"secretKeyRef": secret}
    secret = {"name": "texera-jwt", "key": "AUTH_JWT_SECRET"}
    assert variables["CENTRAL_JWT_SECRET"] == {"secretKeyRef": secret}
    assert "CENTRAL_OWNER_DATABASE_URL" not in variables


def test_keys_of_run_tokens_come_from_a_secret_if_one_is_named(chart: Chart) -> None:
    variables = environment(container(chart.render("run-tokens")))

    secret = {"name": "central-run-tokens", "key": "keys"}
    assert variables["CENTRAL_RUN_TOKEN_KEYS"] == {"secretKeyRef": secret}
    assert "CENTRAL_RUN_TOKEN_KEYS" not in environment(container(chart.render()))


def test_key_set_replaces_the_secret(chart: Chart) -> None:
    by_url, by_file = chart.render("key-set-url"), chart.render("key-set-file", "workload-off")

    variables = environment(container(by_url))
    assert variables["CENTRAL_JWT_JWKS"] == "https://issuer.example/jwks.json"
    assert variables["CENTRAL_JWT_ALGORITHMS"] == "RS256"
    assert "CENTRAL_JWT_SECRET" not in variables
    assert "jwks" not in [volume["name"] for volume in pod(by_url)["volumes"]]

    assert environment(container(by_file))["CENTRAL_JWT_JWKS"] == "/etc/central/jwks/jwks.json"
    (mount,) = container(by_file)["volumeMounts"]
    assert mount == {"name": "jwks", "mountPath": "/etc/central/jwks", "readOnly": True}
    (volume,) = pod(by_file)["volumes"]
    assert volume["configMap"]["items"] == [{"key": "keys.json", "path": "jwks.json"}]


def test_cluster_keys_are_fetched_with_centrals_own_token(chart: Chart) -> None:
    objects = chart.render()

    variables = environment(container(objects))
    assert variables["CENTRAL_WORKLOAD_IDENTITY"] == "require"
    (volume,) = pod(objects)["volumes"]
    (mount,) = container(objects)["volumeMounts"]
    token, authority = volume["projected"]["sources"]
    assert "audience" not in token["serviceAccountToken"]  # the API server's own
    assert authority["configMap"]["name"] == "kube-root-ca.crt"
    folder = mount["mountPath"]
    assert variables["CENTRAL_WORKLOAD_JWKS_TOKEN_FILE"] == f"{folder}/token"
    assert variables["CENTRAL_JWKS_CA_FILE"] == f"{folder}/ca.crt"


def test_a_key_set_in_a_file_needs_no_token(chart: Chart) -> None:
    objects = chart.render("workload-key-set-file")

    variables = environment(container(objects))
    assert variables["CENTRAL_WORKLOAD_IDENTITY"] == "warn"
    assert variables["CENTRAL_WORKLOAD_JWKS"] == "/etc/central/workload-jwks/jwks.json"
    assert "CENTRAL_WORKLOAD_JWKS_TOKEN_FILE" not in variables
    (volume,) = pod(objects)["volumes"]
    assert volume["configMap"]["name"] == "cluster-keys"


def test_central_runs_without_privileges(chart: Chart) -> None:
    objects = chart.render()

    for spec in (pod(objects), objects.one("Job")["spec"]["template"]["spec"]):
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (only,) = spec["containers"]
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }


def test_service_ports_may_be_privileged(chart: Chart) -> None:
    objects = chart.render("placement")
    found = container(objects)

    variables = environment(found)
    assert variables["CENTRAL_LISTEN"] == "0.0.0.0:7080"
    assert variables["CENTRAL_OPS_LISTEN"] == "0.0.0.0:7081"
    ports = {port["name"]: port["containerPort"] for port in found["ports"]}
    assert ports == {"api": 7080, "ops": 7081}
    services = {p["port"]: p["targetPort"] for p in objects.one("Service")["spec"]["ports"]}
    assert services == {80: "api", 81: "ops"}
    url = environment(chart.sidecar("placement"))["SIDECAR_CENTRAL_URL"]
    assert url.endswith(".svc.cluster.local:80")


def test_probes_use_the_ops_listener(chart: Chart) -> None:
    found = container(chart.render())

    for probe, path in (("startup", "/readyz"), ("readiness", "/readyz"), ("liveness", "/livez")):
        assert found[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "ops"}


def test_a_rollout_never_has_fewer_replicas(chart: Chart) -> None:
    deployment = chart.render().one("Deployment")["spec"]

    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_rollout_waits_for_the_terminating_replica(chart: Chart) -> None:
    """A Deployment does not count pods that end; the connection budget counts one."""
    deployment = chart.render("every-setting").one("Deployment")["spec"]

    ends_s = deployment["template"]["spec"]["terminationGracePeriodSeconds"]
    assert deployment["minReadySeconds"] >= ends_s
    budget = {"central": {"replicas": 5, "database": {"connectionBudget": 71}}}
    assert chart.render(**budget).one("Deployment")
    budget["central"]["database"] = {"connectionBudget": 70}
    with pytest.raises(Refused, match="take 71 connections"):
        chart.render(**budget)


def test_replicas_spread_over_nodes_and_zones(chart: Chart) -> None:
    spread = pod(chart.render())["topologySpreadConstraints"]

    selector = chart.render().one("Deployment")["spec"]["selector"]
    assert [s["topologyKey"] for s in spread] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    assert all(s["labelSelector"] == selector for s in spread)


def test_autoscaling_owns_the_number_of_replicas(chart: Chart) -> None:
    objects = chart.render("autoscaling")

    assert "replicas" not in objects.one("Deployment")["spec"]
    scaler = objects.one("HorizontalPodAutoscaler")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 4)
    assert scaler["scaleTargetRef"]["name"] == objects.one("Deployment")["metadata"]["name"]


@pytest.mark.parametrize(("feature", "count"), [("autoscaling", 1), ("single-replica", 0)])
def test_a_disruption_budget_takes_two_replicas(chart: Chart, feature: str, count: int) -> None:
    assert len(chart.render(feature).of("PodDisruptionBudget")) == count


def test_every_selector_finds_the_pods(chart: Chart) -> None:
    objects = chart.render("placement")

    labels = objects.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        objects.one("Service")["spec"]["selector"],
        objects.one("Deployment")["spec"]["selector"]["matchLabels"],
        objects.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    job = objects.one("Job")["spec"]["template"]["metadata"]["labels"]
    assert not any(selector.items() <= job.items() for selector in selectors)


def test_the_migration_runs_before_install_and_upgrade(chart: Chart) -> None:
    objects = chart.render()

    job, account = objects.one("Job"), objects.one("ServiceAccount", "migration")
    for hook in (job, account):
        notes = hook["metadata"]["annotations"]
        assert notes["helm.sh/hook"] == "pre-install,pre-upgrade"
        # Helm does not remove hooks when it uninstalls: they must go by themselves.
        assert "hook-succeeded" in notes["helm.sh/hook-delete-policy"]
    weights = [int(h["metadata"]["annotations"]["helm.sh/hook-weight"]) for h in (account, job)]
    assert weights == sorted(weights)
    spec = job["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == account["metadata"]["name"]
    (migrate,) = spec["containers"]
    assert migrate["args"] == ["migrate"]
    assert environment(migrate)["CENTRAL_OWNER_DATABASE_URL"] == {
        "secretKeyRef": {"name": "texera-owner", "key": "url"}
    }
    assert migrate["image"] == container(objects)["image"]
    # helm waits 5 minutes; the Job must have failed by then, or nobody sees why.
    assert job["spec"]["activeDeadlineSeconds"] < 300
    assert chart.render("no-migration").of("Job") == []


def test_migration_and_test_pods_share_centrals_settings(chart: Chart) -> None:
    """An authority of the database's, nodes that take them."""
    objects = chart.render("placement")
    central, job = pod(objects), objects.one("Job")["spec"]["template"]["spec"]

    (migrate,) = job["containers"]
    assert environment(migrate)["PGSSLROOTCERT"] == environment(container(objects))["PGSSLROOTCERT"]
    assert migrate["volumeMounts"][0] in container(objects)["volumeMounts"]
    assert job["volumes"][0] in central["volumes"]
    for spec in (job, objects.one("Pod")["spec"]):
        for field in ("nodeSelector", "tolerations", "affinity", "imagePullSecrets"):
            assert spec[field] == central[field], field


def test_existing_service_account_is_used_not_created(chart: Chart) -> None:
    objects = chart.render("foreign-service-account")

    assert [o["metadata"]["name"] for o in objects.of("ServiceAccount")] == [
        "metadata-texera-cu-sidecar-migration"
    ]
    assert pod(objects)["serviceAccountName"] == "existing"


def test_digest_replaces_the_tag(chart: Chart) -> None:
    assert container(chart.render())["image"] == "texera-cu-central:0.1.0"
    assert container(chart.render("placement"))["image"] == (
        "registry.example/texera/central@sha256:" + 64 * "0"
    )
