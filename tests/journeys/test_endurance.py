"""A write that was acknowledged arrives: after its token's end, and after the sidecar's own."""

import os
import signal

from dev.polling import wait_until
from dev.tokens import mint
from tests.journeys.calls import call, create
from tests.systems import Up, wait_until_gone

LEEWAY_S = 30  # central takes a token this long after its `exp`
EXIT_UNDELIVERED = 75


def test_a_run_outlives_its_token(up: Up) -> None:
    system = up.ready
    owner = system["users"]["owner"]["user_id"]
    dying = mint(owner, "REGULAR", ttl_s=4 - LEEWAY_S)
    path = f"/v1/executions/{create(system, dying)}"

    wait_until(lambda: call(system, "GET", path, token=dying)[0] == 401, 20)
    running = call(system, "PATCH", path, {"status": "RUNNING"}, token=dying)
    ended = call(system, "PATCH", path, {"status": "COMPLETED"}, token=dying)

    def status() -> object:
        return call(system, "GET", path, token=system["users"]["owner"]["token"])[1]["status_code"]

    assert call(system, "GET", path, token=dying)[0] == 401
    assert (running[0], ended[0]) == (202, 202)
    assert wait_until(lambda: status() == 3, 10)


def test_what_a_drain_leaves_is_delivered_by_the_next_start(up: Up) -> None:
    system, token = up.ready, up.ready["users"]["owner"]["token"]
    path = f"/v1/executions/{create(system)}"
    os.kill(up.published("central")["pid"], signal.SIGTERM)
    wait_until_gone([up.published("central")["pid"]], 30)  # it serves what it has begun
    written = call(system, "PATCH", path, {"status": "COMPLETED"}, token=token)

    # The first is the child of `dev up`; the second is ours, so that its exit code can be seen.
    os.kill(up.published("sidecar")["pid"], signal.SIGTERM)
    wait_until_gone([up.published("sidecar")["pid"]], 30)
    second = up.restart("sidecar")
    wait_until(lambda: answers(up), 20)
    second.send_signal(signal.SIGTERM)
    left = second.wait(30)
    up.restart("central")
    up.restart("sidecar")
    wait_until(lambda: answers(up), 20)

    def state() -> object:
        return call(system, "GET", f"/v1/writes/{written[1]['write_id']}", token=token)[1]["state"]

    assert written[0] == 202
    assert left == EXIT_UNDELIVERED
    assert wait_until(lambda: state() == "committed", 20)


def answers(up: Up) -> bool:
    """Does the sidecar's API answer at all?"""
    try:
        return call(up.ready, "GET", "/v1/writes")[0] == 401
    except OSError:
        return False
