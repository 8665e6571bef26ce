"""No run stays "Running" for ever, and none that is alive is ended: the whole system, killed."""

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


def begin(pod: Pod) -> int:
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


def closes(pod: Pod, count: int = 1) -> bool:
    closed = "central_closed_executions_total"
    return wait_until(lambda: pod.metric("central_ops", closed) >= count, PATIENCE_S)


async def test_a_killed_unit_loses_its_runs_within_a_lease_and_the_reason_is_kept(
    pod: Pod,
) -> None:
    execution_id = begin(pod)
    pod.serves_for(2 * LEASE_S)
    alive = await pod.ending(execution_id)

    pod.unit.kill()
    killed_at = time.monotonic()
    assert closes(pod)
    taken_s = time.monotonic() - killed_at

    assert alive == (RUNNING, None)
    assert await pod.ending(execution_id) == (FAILED, "lease-lapsed")
    assert taken_s > LEASE_S / 2  # the lease was honoured
    log = [json.loads(line) for line in pod.folder.log("central").read_text().splitlines()]
    (line,) = [line for line in log if line["message"] == "execution closed"]
    assert (line["execution_id"], line["reason"]) == (execution_id, "lease-lapsed")
    assert pod.metric("sidecar_ops", "sidecar_computing_unit_up") == 0

    # It was there after all: its own end counts, its RUNNING does not.
    assert patch(pod, execution_id, "RUNNING")[1]["type"] == "late"
    assert patch(pod, execution_id, "COMPLETED")[0] == 200
    assert await pod.ending(execution_id) == (COMPLETED, None)


async def test_a_killed_sidecar_that_is_back_within_the_lease_loses_nothing(pod: Pod) -> None:
    execution_id = begin(pod)
    pod.serves_for(LEASE_S)

    pod.kill("sidecar")
    pod.restart("sidecar")
    assert wait_until(
        lambda: pod.metric("sidecar_ops", "sidecar_lease_renewals_total") > 2, PATIENCE_S
    )
    pod.serves_for(pod.metric("central_ops", "central_uninterrupted_seconds") + 2 * LEASE_S)

    assert await pod.ending(execution_id) == (RUNNING, None)
    assert pod.metric("sidecar_ops", "sidecar_leases") == 1


async def test_a_killed_pod_loses_its_runs(pod: Pod) -> None:
    runs = [begin(pod) for _ in range(3)]
    pod.serves_for(LEASE_S)

    pod.unit.kill()
    pod.kill("sidecar")

    assert closes(pod, count=3)
    assert [await pod.ending(run) for run in runs] == [(FAILED, "lease-lapsed")] * 3


async def test_an_outage_of_central_longer_than_the_lease_ends_no_healthy_run(pod: Pod) -> None:
    execution_id = begin(pod)
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


async def test_a_master_that_restarts_in_place_ends_its_old_runs_at_once(pod: Pod) -> None:
    assert boot(pod, "first") == (200, {"closed": []})
    old = begin(pod)
    pod.unit.kill()
    pod.unit.start()

    began_at = time.monotonic()
    answer = boot(pod, "second")
    ending = await pod.ending(old)
    taken_s = time.monotonic() - began_at
    new = begin(pod)
    again = boot(pod, "second")

    assert answer == again == (200, {"closed": [old]})
    assert ending == (FAILED, "superseded-boot")
    assert taken_s < 3.0  # 0.05 s on a quiet machine
    assert boot(pod, "first")[1]["type"] == "boot-superseded"
    assert await pod.ending(new) == (RUNNING, None)

    # The sidecar remembers its boot: what it creates after a restart is the second's.
    pod.kill("sidecar")
    pod.restart("sidecar")
    after = create(pod.system)
    bound = await pod.row("select boot_id from cu_metadata.bindings where execution_id = $1", after)
    assert bound["boot_id"] == "second"


async def test_a_master_that_restarts_in_place_and_tells_no_boot_loses_its_old_runs_too(
    system_folder: Path,
) -> None:
    """As an unchanged client of the drop-in routes: its sidecar has seen that it was gone, and
    says so. However many they are: that is no silence."""
    with running_pod(system_folder, SIDECAR_FAIL_RUNS_ON_CU_RESTART="true") as pod:
        old = [begin(pod) for _ in range(5)]
        pod.serves_for(LEASE_S)
        pod.unit.kill()
        assert wait_until(
            lambda: pod.metric("sidecar_ops", "sidecar_computing_unit_up") == 0, PATIENCE_S
        )
        pod.unit.start()
        new = begin(pod)

        assert closes(pod, count=5)
        pod.serves_for(pod.metric("central_ops", "central_uninterrupted_seconds") + 2 * LEASE_S)

        assert [await pod.ending(run) for run in old] == [(FAILED, "unit-gone")] * 5
        assert await pod.ending(new) == (RUNNING, None)


async def test_a_create_whose_answer_was_lost_is_ended_at_the_next_start(
    system_folder: Path,
) -> None:
    """The sidecar died between central's commit and its own: here its key speaks for it."""
    with running_pod(system_folder, lease_s=600) as pod:  # nothing lapses in this test
        known = begin(pod)
        pod.kill("sidecar")
        abandoned = create_behind_its_back(pod)
        pod.restart("sidecar")

        assert closes(pod)
        assert await pod.ending(abandoned) == (FAILED, "abandoned-create")
        assert await pod.ending(known) == (RUNNING, None)


def create_behind_its_back(pod: Pod) -> int:
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
