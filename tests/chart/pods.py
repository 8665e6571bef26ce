"""Computing-unit pods as Texera's manager creates them, and the expected result of injection.

Each case is the pod as it is sent, and what a reader of the promise would write down as the
result: every list in full, by hand, none of it computed from the policy.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tests.chart.rendering import POOL

Pod: TypeAlias = dict[str, Any]

JDBC = "jdbc:postgresql://texera-postgresql:5432/texera_db?currentSchema=texera_db,public"
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_MOUNT = {"name": "kube-api-access-x7k2p", "mountPath": TOKEN_PATH, "readOnly": True}
TOKEN_VOLUME = {
    "name": "kube-api-access-x7k2p",
    "projected": {
        "defaultMode": 420,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca", "path": "ca"}]}},
        ],
    },
}


def variable(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}


HARMLESS = [
    variable("STORAGE_ICEBERG_CATALOG_TYPE", "rest"),
    variable("STORAGE_ICEBERG_CATALOG_REST_URI", "http://texera-lakekeeper:8181/catalog"),
    variable("STORAGE_S3_ENDPOINT", "http://texera-minio:9000"),
    variable("USER_SYS_ENABLED", "true"),
    variable("JAVA_OPTS", "-Xmx1g"),
]
CREDENTIALS = [
    variable("STORAGE_JDBC_URL", JDBC),
    variable("STORAGE_JDBC_USERNAME", "postgres"),
    variable("STORAGE_JDBC_PASSWORD", "postgres-password"),
    variable("AUTH_JWT_SECRET", "8a1204762fd6c3a9"),
    variable("USER_JWT_TOKEN", "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"),
]
STRIPPED = "9e6ce38fefa1"
"""The first digits of the SHA-256 of the names above, sorted, with commas between."""
# What every container but the sidecar ends with, whatever it began with.
ENDPOINTS = [
    variable(
        "DASHBOARD_SERVICE_EXECUTION_METADATA_ENDPOINT",
        "http://127.0.0.1:7070/api/internal/execution-metadata",
    ),
    variable("EXECUTION_METADATA_REMOTE", "true"),
    variable("AUTH_JWT_SECRET", "random"),
]
SPOOL_VOLUME = {"name": "cu-sidecar-spool", "emptyDir": {"sizeLimit": "1Gi"}}
WORKLOAD_TOKEN = {
    "audience": "texera-execution-metadata",
    "expirationSeconds": 3600,
    "path": "token",
}
WORKLOAD_VOLUME = {
    "name": "cu-sidecar-token",
    "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": WORKLOAD_TOKEN}]},
}


def computing_unit(unit_id: int = 7) -> Pod:
    """What `KubernetesClient.createPod` sends: limits only, one container, everything in `env`."""
    name = f"computing-unit-{unit_id}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": POOL,
            "labels": {"type": "computing-unit", "cuid": str(unit_id), "name": name},
        },
        "spec": {
            "hostname": name,
            "subdomain": "texera-workflow-computing-unit-pool-svc",
            "containers": [
                {
                    "name": "computing-unit-master",
                    "image": "texera/computing-unit-master:latest",
                    "ports": [{"containerPort": 8085}],
                    "env": [*HARMLESS[:2], *CREDENTIALS[:3], *HARMLESS[2:], *CREDENTIALS[3:]],
                    "resources": {"limits": {"cpu": "2", "memory": "4Gi"}},
                }
            ],
        },
    }


def admitted(pod: Pod) -> Pod:
    """The pod as the policy receives it, after ServiceAccount admission and defaulting."""
    pod = copy.deepcopy(pod)
    spec = pod["spec"]
    spec.setdefault("terminationGracePeriodSeconds", 30)
    if spec.get("automountServiceAccountToken") is False:
        return pod
    spec["volumes"] = [*spec.get("volumes", []), copy.deepcopy(TOKEN_VOLUME)]
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        if all(m["mountPath"] != TOKEN_PATH for m in container.get("volumeMounts", [])):
            container["volumeMounts"] = [*container.get("volumeMounts", []), dict(TOKEN_MOUNT)]
    return pod


@dataclass(frozen=True)
class Case:
    """A pod, and the changes expected of the injection; the rest stays unchanged."""

    pod: Pod
    env: dict[str, list[dict[str, Any]]]
    """All variables after the injection, by container."""
    volumes: Sequence[dict[str, Any]] = ()
    """The volumes after the injection, without the sidecar's own two."""
    grace_period_s: int = 45

    def expected(self, sidecar: dict[str, Any]) -> Pod:
        """The expected pod, with `sidecar` as the injected container."""
        pod = copy.deepcopy(self.pod)
        pod["metadata"]["labels"]["texera-cu-sidecar/stripped"] = STRIPPED
        spec = pod["spec"]
        spec["automountServiceAccountToken"] = False
        spec["terminationGracePeriodSeconds"] = self.grace_period_s
        spec["volumes"] = [*self.volumes, SPOOL_VOLUME, WORKLOAD_VOLUME]
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            if container["name"] in self.env:
                container["env"] = self.env[container["name"]]
            if any(m["mountPath"] == TOKEN_PATH for m in container.get("volumeMounts", [])):
                container["volumeMounts"] = [
                    m for m in container["volumeMounts"] if m["mountPath"] != TOKEN_PATH
                ]
        if all(c["name"] != sidecar["name"] for c in spec.get("initContainers", [])):
            spec["initContainers"] = [*spec.get("initContainers", []), sidecar]
        return pod


MASTER = {"computing-unit-master": [*HARMLESS, *ENDPOINTS]}


def plain() -> Case:
    return Case(computing_unit(), MASTER)


def with_gpu() -> Case:
    pod = computing_unit()
    pod["spec"]["runtimeClassName"] = "nvidia"
    pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "1"
    return Case(pod, MASTER)


def with_shared_memory() -> Case:
    pod = computing_unit()
    memory = {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}
    pod["spec"]["volumes"] = [memory]
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "dshm", "mountPath": "/dev/shm"}]  # noqa: S108
    return Case(pod, MASTER, volumes=[memory])


def with_the_mounter() -> Case:
    pod = computing_unit()
    mounts = {"name": "texera-mounts", "hostPath": {"path": "/mnt/texera-mounts/7"}}
    pod["spec"]["volumes"] = [mounts]
    master = pod["spec"]["containers"][0]
    master["volumeMounts"] = [
        {
            "name": "texera-mounts",
            "mountPath": "/mnt/texera-mounts",
            "mountPropagation": "HostToContainer",
        }
    ]
    more = [variable("TEXERA_CU_ID", "7"), variable("TEXERA_MOUNT_IN_POD_ROOT", "/mnt")]
    master["env"] += more
    env = {"computing-unit-master": [*HARMLESS, *more, *ENDPOINTS]}
    return Case(pod, env, volumes=[mounts])


def with_env_from() -> Case:
    """With credentials from envFrom: the explicit AUTH_JWT_SECRET overrides it."""
    pod = computing_unit()
    pod["spec"]["containers"][0]["envFrom"] = [{"configMapRef": {"name": "texera-env"}}]
    return Case(pod, MASTER)


def with_values_from_secrets() -> Case:
    pod = computing_unit()
    reference = {"secretKeyRef": {"name": "texera-postgresql", "key": "postgres-password"}}
    pod["spec"]["containers"][0]["env"] = [
        HARMLESS[0],
        {"name": "STORAGE_JDBC_PASSWORD", "valueFrom": reference},
        {"name": "AUTH_JWT_SECRET", "valueFrom": {"secretKeyRef": {"name": "jwt", "key": "key"}}},
        {
            "name": "POD_IP",
            "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}},
        },
    ]
    kept = pod["spec"]["containers"][0]["env"][3]
    return Case(pod, {"computing-unit-master": [HARMLESS[0], kept, *ENDPOINTS]})


def without_env() -> Case:
    pod = computing_unit()
    del pod["spec"]["containers"][0]["env"]
    return Case(pod, {"computing-unit-master": ENDPOINTS})


def with_another_endpoint() -> Case:
    """A manager of PR 5298's kind names an endpoint of its own; the sidecar's takes its place."""
    pod = computing_unit()
    name = "DASHBOARD_SERVICE_EXECUTION_METADATA_ENDPOINT"
    pod["spec"]["containers"][0]["env"].insert(0, variable(name, "http://webserver-svc:8080/api"))
    return Case(pod, MASTER)


def with_more_containers() -> Case:
    """Another container, an init container and another native sidecar, all with credentials."""
    pod = computing_unit()
    pod["spec"]["containers"].append(
        {
            "name": "language-server",
            "image": "texera/pylsp:latest",
            "env": [CREDENTIALS[4], variable("PORT", "3000")],
        }
    )
    pod["spec"]["initContainers"] = [
        {
            "name": "warm-up",
            "image": "busybox:1",
            "env": [CREDENTIALS[2], variable("HOME", "/data")],
            "volumeMounts": [{"name": "home", "mountPath": "/data"}],
        },
        {"name": "mesh", "image": "mesh-proxy:1", "restartPolicy": "Always"},
    ]
    home = {"name": "home", "emptyDir": {}}
    pod["spec"]["volumes"] = [home]
    env = MASTER | {
        "language-server": [variable("PORT", "3000"), *ENDPOINTS],
        "warm-up": [variable("HOME", "/data"), *ENDPOINTS],
        "mesh": ENDPOINTS,
    }
    return Case(pod, env, volumes=[home])


def with_a_long_grace_period() -> Case:
    pod = computing_unit()
    pod["spec"]["terminationGracePeriodSeconds"] = 600
    return Case(pod, MASTER, grace_period_s=600)


def with_a_volume_of_the_spools_name() -> Case:
    """An attempt to read the spool by a hostPath volume with our volume's name."""
    pod = computing_unit()
    pod["spec"]["volumes"] = [{"name": "cu-sidecar-spool", "hostPath": {"path": "/tmp"}}]  # noqa: S108
    return Case(pod, MASTER)


CASES = {
    make.__name__: make
    for make in (
        plain,
        with_gpu,
        with_shared_memory,
        with_the_mounter,
        with_env_from,
        with_values_from_secrets,
        without_env,
        with_another_endpoint,
        with_more_containers,
        with_a_long_grace_period,
        with_a_volume_of_the_spools_name,
    )
}
