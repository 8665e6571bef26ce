"""Nobody without a binding keeps the runs of dead computing units from being closed."""

import time
from collections.abc import Iterator

import pytest

from dev.polling import wait_until
from tests.attacks.conftest import Record
from tests.attacks.hostile import MIB, connect, head, send_and_leave
from tests.databases import open_folder
from tests.journeys.calls import create
from tests.journeys.lease_fixtures import LEASE_S, PATIENCE_S, Pod, running_pod
from tests.systems import Up

RENEWALS = "/v1/lease-renewals"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def pod() -> Iterator[Pod]:
    with open_folder() as folder, running_pod(folder) as pod:
        yield pod


@pytest.fixture(scope="module")
def attacked(pod: Pod) -> Up:
    return pod.up


def has_closed(pod: Pod, count: int, timeout_s: float = 0.0) -> bool:
    closed = "central_closed_executions_total"
    return wait_until(lambda: pod.metric("central_ops", closed) >= count, timeout_s)


def unhandled_errors(pod: Pod) -> int:
    return pod.folder.log("central").read_text().count('"internal-error"')


@pytest.mark.usefixtures("system")
def test_truncated_renewals_do_not_stop_the_closer(pod: Pod, record: Record, rounds: int) -> None:
    truncated = head("POST", RENEWALS, JSON | {"Content-Length": "300"}) + b'{"execution_ids": ['
    announced = head("POST", RENEWALS, JSON | {"Content-Length": str(MIB)}) + b"["
    waited_s, errors = 0.0, unhandled_errors(pod)

    for closed_before in range(rounds):
        create(pod.system)
        pod.serves_for(LEASE_S)
        pod.unit.kill()
        killed_at = time.monotonic()
        while not has_closed(pod, closed_before + 1) and time.monotonic() < killed_at + 4 * LEASE_S:
            send_and_leave(pod.system["central"], truncated)
            held = [connect(pod.system["central"]) for _ in range(18)]
            for line in held:
                line.sendall(announced)
            has_closed(pod, closed_before + 1, LEASE_S / 6)
            for line in held:
                line.close()
        waited_s = max(waited_s, time.monotonic() - killed_at)
        is_closed = has_closed(pod, closed_before + 1)
        assert is_closed, "the run of a dead unit stays open"
        pod.unit.start()

    record(f"dead runs are closed within {waited_s:.0f} s, with a lease of {LEASE_S:.0f} s")
    assert unhandled_errors(pod) == errors
    assert waited_s < PATIENCE_S
