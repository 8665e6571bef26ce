"""A run by its run token alone, while both services are killed and central's key is rotated."""

import json
import urllib.request
from pathlib import Path
from typing import Any

from dev.polling import wait_until
from dev.tokens import mint
from sidecar.upstream.run_tokens import RENEWAL_PERIOD_S
from tests.journeys.calls import call, create_with_token
from tests.systems import Up, running_system

LEEWAY_S = 30
EXPIRES_IN_S = 4
SETTINGS = ("SIDECAR_ACCESS_TTL_S=1", "SIDECAR_EXECUTION_CACHE_TTL_S=0")
"""Each read goes to central."""
NEW_KEY = "rotated:another-secret-that-signs-run-tokens"


def exchanged_count(up: Up) -> int:
    """Central's tokens of runs that the sidecar holds."""
    with urllib.request.urlopen(f"{up.ready['sidecar_ops']}/status", timeout=5) as response:  # noqa: S310
        return int(json.load(response)["run_tokens"])


def test_a_run_goes_by_its_token_through_kills_and_a_rotated_key(system_folder: Path) -> None:
    with running_system(system_folder, *(f"--set={setting}" for setting in SETTINGS)) as up:
        ready = up.ready
        user_id = ready["users"]["owner"]["user_id"]
        dying = mint(user_id, ttl_s=EXPIRES_IN_S - LEEWAY_S)
        execution_id, token = create_with_token(ready, dying)
        path = f"/v1/executions/{execution_id}"

        def read() -> tuple[int, Any]:
            status, row, headers = call(ready, "GET", path, token=token)
            assert status != 200 or headers["X-Cache"] == "miss"
            return status, row.get("status")

        def write(status: str) -> int:
            change = {"status": status}
            return call(ready, "PATCH", path, change, token=token, prefer="wait=20")[0]

        assert (write("RUNNING"), read()) == (200, (200, "RUNNING"))
        up.kill_and_restart("sidecar")
        # By itself: after its end, a run is read by what was exchanged before.
        assert wait_until(lambda: exchanged_count(up) == 1, RENEWAL_PERIOD_S + 10)
        assert (write("PAUSED"), read()) == (200, (200, "PAUSED"))
        up.published("central")["env"]["CENTRAL_RUN_TOKEN_KEYS"] = NEW_KEY
        up.kill_and_restart("central")
        assert (write("RUNNING"), read()) == (200, (200, "RUNNING"))
        assert wait_until(lambda: call(ready, "GET", path, token=dying)[0] == 401, EXPIRES_IN_S)
        assert (write("COMPLETED"), read()) == (200, (200, "COMPLETED"))
