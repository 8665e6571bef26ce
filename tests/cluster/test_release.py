"""helm installs, upgrades and uninstalls the chart on a real API server."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from tests.chart.rendering import FEATURES, NAMESPACE, RELEASE, Chart, environment
from tests.chart.test_environment import only_container
from tests.chart.test_render import CUSTOM
from tests.cluster.clients import Cluster, Denied, release_arguments
from tests.cluster.conftest import installed, is_injected

INSTALL_TIMEOUT_S = 90
JOB = f"{RELEASE}-texera-cu-sidecar-migration"
# What the API server makes by itself, at times of its own.
OWN = ("events", "leases", "apiservices", "ipaddresses", "flowschemas", "prioritylevel")


@pytest.mark.parametrize("feature", FEATURES)
def test_api_server_accepts_every_object(kubernetes: Cluster, chart: Chart, feature: str) -> None:
    """It compiles the policies' CEL by its own rules, types included."""
    objects = chart.render(feature)

    known = [item for item in objects.all if item["kind"] not in CUSTOM]
    text = yaml.safe_dump_all([dict(item) for item in known])
    said = kubernetes.kubectl("create", "--filename=-", "--dry-run=server", send=text)
    assert said.count("created (server dry run)") == len(known)


def test_the_charts_own_pods_meet_the_restricted_standard(
    kubernetes: Cluster, chart: Chart
) -> None:
    """Kubernetes' own check, on a namespace that enforces it."""
    objects = chart.render()
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "restricted",
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    kubernetes.created(namespace)
    kubernetes.kubectl("create", "serviceaccount", "default", "--namespace=restricted")
    specs = [o["spec"]["template"]["spec"] for o in (objects.one("Deployment"), objects.one("Job"))]

    for spec in [*specs, objects.one("Pod")["spec"]]:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "probe", "namespace": "restricted"},
            "spec": spec | {"serviceAccountName": "default"},
        }
        assert kubernetes.created(pod, "--dry-run=server")
        spec["containers"][0].pop("securityContext")
        with pytest.raises(Denied, match="violates PodSecurity"):
            kubernetes.created(pod | {"spec": spec | {"serviceAccountName": "default"}})


def test_the_notes_say_what_is_stripped_and_what_then_breaks(kubernetes: Cluster) -> None:
    dry = ("--dry-run=client", "--no-hooks")

    policy = kubernetes.release("install", options=dry).partition("NOTES:")[2]
    none = kubernetes.release("install", "injection-none", options=dry).partition("NOTES:")[2]

    assert "STORAGE_JDBC_PASSWORD" in policy
    assert 'set to "random": exports to a dataset need the export plan' in policy
    assert "-l 'type=computing-unit,texera-cu-sidecar/stripped!=" in policy
    for row in ("hasReadAccess", "resolveWarehouseName", "datasetResolveFunc", "FileLister", "Pve"):
        assert row in policy
    assert "Before you uninstall, let the sidecars deliver" in policy
    assert "restartPolicy: Always" in none
    assert "DASHBOARD_SERVICE_EXECUTION_METADATA_ENDPOINT" in none


def test_the_migration_comes_before_central(kubernetes: Cluster) -> None:
    before = everything(kubernetes)

    with installing(kubernetes) as helm:
        kubernetes.eventually(lambda: exists(kubernetes, "job", JOB))
        assert not exists(kubernetes, "deployment", f"{RELEASE}-texera-cu-sidecar-central")
        finish(kubernetes, "Complete", "SuccessCriteriaMet")
        assert helm.wait(INSTALL_TIMEOUT_S) == 0

    assert exists(kubernetes, "deployment", f"{RELEASE}-texera-cu-sidecar-central")
    assert not exists(kubernetes, "job", JOB)  # hooks that succeeded are gone
    assert not exists(kubernetes, "serviceaccount", JOB)

    kubernetes.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}")
    assert everything(kubernetes) == before


def test_without_the_migration_there_is_no_central(kubernetes: Cluster) -> None:
    with installing(kubernetes) as helm:
        kubernetes.eventually(lambda: exists(kubernetes, "job", JOB))
        finish(kubernetes, "Failed", "FailureTarget")
        assert helm.wait(INSTALL_TIMEOUT_S) != 0

    assert not exists(kubernetes, "deployment", f"{RELEASE}-texera-cu-sidecar-central")
    assert exists(kubernetes, "job", JOB)  # for its log
    kubernetes.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}")
    kubernetes.kubectl("delete", "job", JOB, f"--namespace={NAMESPACE}", "--wait=false")


@pytest.fixture
def release(kubernetes: Cluster) -> Iterator[Cluster]:
    """For one test only: others here install it themselves."""
    with installed(kubernetes):
        yield kubernetes


def test_failed_migration_changes_nothing_and_can_be_retried(
    release: Cluster,
) -> None:
    def log_level() -> str | None:
        name = f"{RELEASE}-texera-cu-sidecar-central"
        deployment = release.get("deployment", name, f"--namespace={NAMESPACE}")
        level: str | None = environment(only_container(deployment)).get("CENTRAL_LOG_LEVEL")
        return level

    with installing(release, "upgrade", "every-setting") as helm:
        release.eventually(lambda: exists(release, "job", JOB))
        finish(release, "Failed", "FailureTarget")
        assert helm.wait(INSTALL_TIMEOUT_S) != 0
    failed = release.get("job", JOB, f"--namespace={NAMESPACE}")["metadata"]["uid"]

    assert log_level() == "info"
    assert is_injected(release) is True

    def is_made_anew() -> bool:
        try:
            job = release.get("job", JOB, f"--namespace={NAMESPACE}")
        except Denied:
            return False
        return bool(job["metadata"]["uid"] != failed)

    with installing(release, "upgrade", "every-setting") as helm:
        release.eventually(is_made_anew)
        finish(release, "Complete", "SuccessCriteriaMet")
        assert helm.wait(INSTALL_TIMEOUT_S) == 0

    assert log_level() == "debug"


@contextmanager
def installing(
    cluster: Cluster, verb: str = "install", *features: str
) -> "Iterator[subprocess.Popen[bytes]]":
    """helm install or upgrade, which waits for its hooks."""
    process = subprocess.Popen(
        [cluster.helm_program, *release_arguments(verb, *features), "--timeout=60s"],
        env=cluster.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def exists(cluster: Cluster, kind: str, name: str) -> bool:
    try:
        cluster.kubectl("get", kind, name, f"--namespace={NAMESPACE}")
    except Denied as denied:
        if "NotFound" not in str(denied):
            raise
        return False
    return True


def finish(cluster: Cluster, *conditions: str) -> None:
    """What the Job's controller, which is not here, would write once its pod has ended."""
    now = "2026-01-01T00:00:00Z"
    states = ",".join(
        f'{{"type": "{kind}", "status": "True", "lastTransitionTime": "{now}"}}'
        for kind in reversed(conditions)
    )
    succeeded = f', "succeeded": 1, "completionTime": "{now}"' if "Complete" in conditions else ""
    status = f'{{"status": {{"startTime": "{now}"{succeeded}, "conditions": [{states}]}}}}'
    cluster.kubectl(
        *("patch", "job", JOB, f"--namespace={NAMESPACE}"),
        *("--subresource=status", "--type=merge", f"--patch={status}"),
    )


def everything(cluster: Cluster) -> set[str]:
    """Every object of every kind, but what the API server keeps for itself."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "--output=name").split()
    wanted = ",".join(kind for kind in kinds if not kind.startswith(OWN))
    lines = cluster.kubectl(
        *("get", wanted, "--all-namespaces", "--output"),
        'jsonpath={range .items[*]}{.kind} {.metadata.namespace} {.metadata.name}{"\\n"}{end}',
    )
    return set(lines.splitlines())
