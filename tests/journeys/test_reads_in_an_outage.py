"""Reads of real processes while central is down: cached values are stale, others 503 in time.

Outages of a minute and more are simulated with a manual clock in tests/unit/sidecar/test_reads.py.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.polling import wait_until
from tests.journeys.calls import call, create
from tests.systems import Up, running_system

CACHED_S = 5.0
"""For a cached value, on a busy machine; central may take 1 s before it is served as stale."""
UNCACHED_S = 15.0
"""SIDECAR_UPSTREAM_TIMEOUT_S is 10."""


@pytest.fixture
def up(request: pytest.FixtureRequest, system_folder: Path) -> Iterator[Up]:
    with running_system(system_folder, "--set", f"SIDECAR_RESPONSE_CACHE={request.param}") as up:
        yield up


def timed(up: Up, path: str) -> tuple[int, Any, dict[str, str], float]:
    started_at = time.monotonic()
    status, body, headers = call(up.ready, "GET", path, token=up.ready["users"]["owner"]["token"])
    return status, body, headers, time.monotonic() - started_at


@pytest.mark.parametrize(
    ("up", "how"),
    [("true", signal.SIGKILL), ("false", signal.SIGSTOP)],
    ids=["response cache, central killed", "aiohttp alone, central stopped"],
    indirect=["up"],
)
def test_cached_values_are_served_and_others_get_503_in_time_while_central_is_down(
    up: Up, how: signal.Signals
) -> None:
    cached, uncached = create(up.ready), create(up.ready)
    row, uris = f"/v1/executions/{cached}", f"/v1/executions/{cached}/uris"
    latest = f"/v1/workflows/{up.ready['workflow_id']}/executions/latest"
    for path in (row, uris, latest) * 3:
        assert timed(up, path)[0] == 200
    central = up.published("central")["pid"]
    os.kill(central, how)

    def is_stale(path: str) -> bool:
        status, body, headers, took_s = timed(up, path)
        assert (status, body["execution_id"] >= cached, took_s < CACHED_S) == (200, True, True)
        return headers["X-Cache"] == "stale" and int(headers["Age"]) >= 2

    assert wait_until(lambda: is_stale(row), 20)
    assert wait_until(lambda: is_stale(latest), 20)
    status, _, headers, took_s = timed(up, uris)
    assert (status, headers["X-Cache"], took_s < CACHED_S) == (200, "hit", True)
    status, problem, headers, took_s = timed(up, f"/v1/executions/{uncached}")
    assert (status, problem["type"], took_s < UNCACHED_S) == (503, "central-unavailable", True)
    assert int(headers["Retry-After"]) >= 0

    if how is signal.SIGSTOP:
        os.kill(central, signal.SIGCONT)
    else:
        up.restart("central")
    assert wait_until(lambda: timed(up, f"/v1/executions/{uncached}")[0] == 200, 30)
    assert wait_until(lambda: timed(up, row)[2]["X-Cache"] in {"miss", "hit"}, 30)
