"""No run stays "Running" for ever, and no live run is failed: the system, with processes killed."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.polling import wait_until
from sidecar.upstream.source_identity import SourceIdentity
from tests.journeys.calls import call, create
from tests.journeys.lease_fixtures import LEASE_S, PATIENCE_S, Pod, running_pod

RUNNING, COMPLETED, FAILED = 1, 3, 4


@pytest.fixture
def pod(system_folder: Path) -> Iterator[Pod]:
    with running_pod(system_folder) as pod:
        yield pod


def start_run(pod: Pod) -> int:
    execution_id = create(pod.system)
    assert patch(pod, execution_id, "RUNNING")[0] == 200
    return execution_id


def patch(pod: Pod, execution_id: int, status: str) -> tuple[int, Any]:
    token = pod.system["users"]["owner"]["token"]
    path = f"/v1/executions/{execution_id}"
    return call(pod.system, "PATCH", path, {"status": status}, token=token, prefer="wait=30")[:2]


def boot(pod: Pod, boot_id: str) -> tuple[int, Any]:
    unit, token = pod.system["computing_unit_id"], pod.system["users"]["owner"]["token"]
    path = f"/v1/computing-units/{unit}/boots"
    return call(pod.system, "POST", path, {"boot_id": boot_id}, token=token)[:2]


def has_closed(pod: Pod, count: int = 1) -> bool:
    closed = "central_closed_executions_total"
    return wait_until(lambda: pod.metric("central_ops", closed) >= count, PATIENCE_S)


async def test_runs_of_a_killed_unit_fail_within_a_lease_with_the_reason(
    pod: Pod,
) -> None:
    execution_id = start_run(pod)
    pod.serves_for(2 * LEASE_S)
    alive = await pod.ending(execution_id)

    pod.unit.kill()
    killed_at = time.monotonic()
    assert has_closed(pod)
    taken_s = time.monotonic() - killed_at

    assert alive == (RUNNING, None)
    assert await pod.ending(execution_id) == (FAILED, "lease-lapsed")
    assert taken_s > LEASE_S / 2  # the lease was honoured
    log = [json.loads(line) for line in pod.folder.log("central").read_text().splitlines()]
    (line,) = [line for line in log if line["message"] == "execution closed"]
    assert (line["execution_id"], line["reason"]) == (execution_id, "lease-lapsed")
    assert pod.metric("sidecar_ops", "sidecar_computing_unit_up") == 0

    # If the unit was alive after all, its terminal status counts and its RUNNING does not.
    assert patch(pod, execution_id, "RUNNING")[1]["type"] == "late"
    assert patch(pod, execution_id, "COMPLETED")[0] == 200
    assert await pod.ending(execution_id) == (COMPLETED, None)


async def test_a_sidecar_restarted_within_the_lease_loses_no_run(pod: Pod) -> None:
    execution_id = start_run(pod)
    pod.serves_for(LEASE_S)

    pod.kill("sidecar")
    pod.restart("sidecar")
    assert wait_until(
        lambda: pod.metric("sidecar_ops", "sidecar_lease_renewals_total") > 2, PATIENCE_S
    )
    pod.serves_for(pod.metric("central_ops", "central_uninterrupted_seconds") + 2 * LEASE_S)

    assert await pod.ending(execution_id) == (RUNNING, None)
    assert pod.metric("sidecar_ops", "sidecar_leases") == 1


async def test_runs_of_a_killed_pod_fail(pod: Pod) -> None:
    runs = [start_run(pod) for _ in range(3)]
    pod.serves_for(LEASE_S)

    pod.unit.kill()
    pod.kill("sidecar")

    assert has_closed(pod, count=3)
    assert [await pod.ending(run) for run in runs] == [(FAILED, "lease-lapsed")] * 3


async def test_an_outage_longer_than_the_lease_fails_no_healthy_run(pod: Pod) -> None:
    execution_id = start_run(pod)
    pod.serves_for(LEASE_S)

    pod.kill("central")
    while not (
        await pod.row("select bool_and(expires_at < now()) as lapsed from cu_metadata.leases")
    )["lapsed"]:
        wait_until(lambda: False, 0.2)
    pod.restart("central")
    pod.serves_for(2 * LEASE_S)

    assert await pod.ending(execution_id) == (RUNNING, None)
    assert patch(pod, execution_id, "COMPLETED")[0] == 200


async def test_a_new_boot_fails_the_runs_of_the_old_one_at_once(pod: Pod) -> None:
    assert boot(pod, "first") == (200, {"closed": []})
    old = start_run(pod)
    pod.unit.kill()
    pod.unit.start()

    started_at = time.monotonic()
    response = boot(pod, "second")
    ending = await pod.ending(old)
    taken_s = time.monotonic() - started_at
    new = start_run(pod)
    again = boot(pod, "second")

    assert response == again == (200, {"closed": [old]})
    assert ending == (FAILED, "superseded-boot")
    assert taken_s < 3.0  # 0.05 s on a quiet machine
    assert boot(pod, "first")[1]["type"] == "boot-superseded"
    assert await pod.ending(new) == (RUNNING, None)

    # The sidecar stores its boot: what it creates after a restart belongs to the second.
    pod.kill("sidecar")
    pod.restart("sidecar")
    after = create(pod.system)
    bound = await pod.row("select boot_id from cu_metadata.bindings where execution_id = $1", after)
    assert bound["boot_id"] == "second"


async def test_a_restart_without_a_boot_fails_the_old_runs_too(
    system_folder: Path,
) -> None:
    """As with an unchanged client of the drop-in routes: the sidecar has found the unit down and
    reports that. The closer's limit does not apply: these leases did not lapse."""
    with running_pod(system_folder, SIDECAR_FAIL_RUNS_ON_CU_RESTART="true") as pod:
        old = [start_run(pod) for _ in range(5)]
        pod.serves_for(LEASE_S)
        pod.unit.kill()
        assert wait_until(
            lambda: pod.metric("sidecar_ops", "sidecar_computing_unit_up") == 0, PATIENCE_S
        )
        pod.unit.start()
        new = start_run(pod)

        assert has_closed(pod, count=5)
        pod.serves_for(pod.metric("central_ops", "central_uninterrupted_seconds") + 2 * LEASE_S)

        assert [await pod.ending(run) for run in old] == [(FAILED, "unit-gone")] * 5
        assert await pod.ending(new) == (RUNNING, None)


async def test_an_orphaned_create_is_closed_at_the_next_start(
    system_folder: Path,
) -> None:
    """As if the sidecar died between central's commit and its own: the test signs with its key."""
    with running_pod(system_folder, lease_s=600) as pod:  # nothing lapses in this test
        known = start_run(pod)
        pod.kill("sidecar")
        orphan = create_unknown_to_the_spool(pod)
        pod.restart("sidecar")

        assert has_closed(pod)
        assert await pod.ending(orphan) == (FAILED, "abandoned-create")
        assert await pod.ending(known) == (RUNNING, None)


def create_unknown_to_the_spool(pod: Pod) -> int:
    body = json.dumps(
        {
            "workflow_id": pod.system["workflow_id"],
            "computing_unit_id": pod.system["computing_unit_id"],
            "environment_version": "test",
        }
    ).encode()
    env, token = pod.up.published("sidecar")["env"], pod.system["users"]["owner"]["token"]
    identity = SourceIdentity.from_volume(
        Path(env["SIDECAR_SPOOL_DIR"]), "texera-execution-metadata"
    )
    assertion = identity.assertion(
        "POST", "/v1/executions", body, now=time.time(), token=token, idempotency_key="lost"
    )
    headers = {
        "Authorization": f"Bearer {token}",
        "Sidecar-Assertion": assertion,
        "Idempotency-Key": "lost",
        "Content-Type": "application/json",
    }
    url = pod.system["central"] + "/v1/executions"
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
        return int(json.load(response)["execution_id"])
