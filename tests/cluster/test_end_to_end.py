"""From an injected pod to a row in Postgres, with what the chart gave to every process.

The kubelet's part is done by hand: the processes run on this machine with the environments of
the Deployment and of the pod that came back, Secrets filled in, addresses and files moved here,
and the token is asked for as the kubelet asks.
"""

import asyncio
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from dev.polling import wait_until
from dev.tokens import JWT_SECRET, mint
from dev.world import WORLD
from tests.chart.pods import computing_unit
from tests.chart.rendering import NAMESPACE, POOL, ROOT, Object, environment
from tests.chart.test_environment import only_container
from tests.cluster.clients import Cluster
from tests.cluster.test_workload_tokens import projected
from tests.databases import Database, connected, free_port

READY_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
UNIT, OTHER_UNIT = WORLD.computing_unit_id, WORLD.other_computing_unit_id


@contextmanager
def process(container: Object, changes: Mapping[str, str]) -> Iterator[None]:
    """The container's program with its environment and arguments, ready while the block runs."""
    given = {name: value for name, value in environment(container).items() if value is not None}
    (service,) = {name.partition("_")[0].lower() for name in given}
    variables = {"PATH": os.environ.get("PATH", os.defpath), **given, **changes}
    assert all(isinstance(value, str) for value in variables.values())
    ops = variables[f"{service.upper()}_OPS_LISTEN"]
    running = subprocess.Popen(
        [sys.executable, "-m", service, *container["args"]],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        ready = container["startupProbe"]["httpGet"]["path"]
        wait_until(lambda: answers(ops, ready) or running.poll() is not None, READY_TIMEOUT_S)
        assert answers(ops, ready)
        yield
    finally:
        running.terminate()
        running.wait(STOP_TIMEOUT_S)


def answers(address: str, path: str) -> bool:
    try:
        return call(address, "GET", path)[0] == 200
    except OSError:
        return False


def call(
    address: str, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=CALL_TIMEOUT_S)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@dataclass(frozen=True)
class Unit:
    """A computing unit's own view: its environment, and a sidecar on its loopback."""

    variables: Mapping[str, Any]
    port: int

    def create(self, token: str) -> tuple[int, Any]:
        """What a client of Texera's own proposal does when a run begins."""
        endpoint = self.variables["DASHBOARD_SERVICE_EXECUTION_METADATA_ENDPOINT"]
        assert endpoint.startswith("http://127.0.0.1:7070/")
        body = {
            "workflowId": WORLD.workflow_id,
            "computingUnitId": UNIT,
            "executionName": "from the cluster",
            "environmentVersion": "{}",
        }
        status, response = call(
            f"127.0.0.1:{self.port}",
            "POST",
            urlsplit(endpoint).path + "/create",
            json.dumps(body).encode(),
            **{"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        return status, json.loads(response)


@pytest.fixture
def central_url(release: Cluster, database: Database, tmp_path: Path) -> Iterator[str]:
    """Central with the environment of the Deployment that the API server holds."""
    deployment = release.get("deployment", "metadata-texera-cu-sidecar-central", f"-n{NAMESPACE}")
    own = tmp_path / "central-token"
    own.write_text(release.kubectl("create", "token", "default", f"--namespace={NAMESPACE}"))
    port, ops = free_port(), free_port()
    changes = {
        "CENTRAL_DATABASE_URL": database.central_url,
        "CENTRAL_JWT_SECRET": JWT_SECRET,
        "CENTRAL_LISTEN": f"127.0.0.1:{port}",
        "CENTRAL_OPS_LISTEN": f"127.0.0.1:{ops}",
        "CENTRAL_WORKLOAD_JWKS": f"{release.plane.url}/openid/v1/jwks",
        "CENTRAL_WORKLOAD_JWKS_TOKEN_FILE": str(own),
        "CENTRAL_JWKS_CA_FILE": str(release.plane.authority),
        "CENTRAL_DRAIN_DELAY_S": "0",  # nobody balances load here
    }
    with process(only_container(deployment), changes):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def unit(cluster: Cluster, unit_id: int, central_url: str, folder: Path) -> Iterator[Unit]:
    """The pod of the unit as it came back, with its sidecar running."""
    name = f"computing-unit-{unit_id}"
    pod = cluster.created(computing_unit(unit_id))
    token = folder / f"{name}-token"
    token.write_text(projected(cluster, name))
    (sidecar,) = pod["spec"]["initContainers"]
    (master,) = pod["spec"]["containers"]
    port, ops = free_port(), free_port()
    changes = {
        "SIDECAR_CENTRAL_URL": central_url,
        "SIDECAR_LISTEN": f"127.0.0.1:{port}",
        "SIDECAR_OPS_LISTEN": f"127.0.0.1:{ops}",
        "SIDECAR_SPOOL_DIR": str(folder / name),
        "SIDECAR_WORKLOAD_TOKEN_FILE": str(token),
    }
    try:
        with process(sidecar, changes):
            yield Unit(environment(master), port)
    finally:
        cluster.kubectl("delete", "pod", name, f"--namespace={POOL}", "--force")


async def test_run_created_in_an_injected_pod_is_a_row(
    release: Cluster, central_url: str, database: Database, tmp_path: Path
) -> None:
    token = mint(WORLD.owner.user_id)

    with unit(release, UNIT, central_url, tmp_path) as here:
        status, created = await asyncio.to_thread(here.create, token)

    assert status == 200, created
    assert not [name for name in here.variables if "JDBC" in name or name == "USER_JWT_TOKEN"]
    assert here.variables["AUTH_JWT_SECRET"] == "random"
    async with connected(database.owner_url) as connection:
        row = await connection.fetchrow(
            "SELECT uid, cuid, name FROM texera_db.workflow_executions WHERE eid = $1",
            created["eid"],
        )
    assert row is not None
    assert tuple(row) == (WORLD.owner.user_id, UNIT, "from the cluster")


async def test_pod_of_another_unit_cannot_create_it(
    release: Cluster, central_url: str, tmp_path: Path
) -> None:
    """With the very token of the unit's owner."""
    token = mint(WORLD.owner.user_id)

    with unit(release, OTHER_UNIT, central_url, tmp_path) as elsewhere:
        status, problem = await asyncio.to_thread(elsewhere.create, token)

    assert status == 403
    assert problem["type"] == "wrong-computing-unit"
