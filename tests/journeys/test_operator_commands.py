"""The commands of whoever is on call, beside a running system and through an outage."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from dev.polling import wait_until
from tests.databases import open_folder
from tests.journeys.calls import call, create
from tests.systems import ROOT, Up, running_system

LEASE_S = 6
OWN_TIMEOUT_S = 60


class Operator:
    """Runs commands in the environment of the service's process, as in its container."""

    def __init__(self, up: Up) -> None:
        self.up = up

    def run(self, role: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", role, *arguments],
            cwd=ROOT,
            env=self.up.published(role)["env"],
            capture_output=True,
            text=True,
            check=False,
            timeout=OWN_TIMEOUT_S,
        )

    def json(self, role: str, *arguments: str) -> Any:
        return json.loads(self.run(role, *arguments, "--json").stdout)

    def signal(self, role: str, number: signal.Signals) -> None:
        os.kill(self.up.published(role)["pid"], number)

    def patch(self, execution_id: int, **members: Any) -> str:
        """The write's id."""
        token = self.up.ready["users"]["owner"]["token"]
        path = f"/v1/executions/{execution_id}"
        status, written, _ = call(self.up.ready, "PATCH", path, members, token=token)
        assert status == 202, written
        return str(written["write_id"])


@pytest.fixture(scope="module")
def operator() -> Iterator[Operator]:
    settings = ("--set", f"CENTRAL_LEASE_S={LEASE_S}", "--set", "CENTRAL_CLOSER_PERIOD_S=0.2")
    with open_folder() as folder, running_system(folder, *settings) as up:
        yield Operator(up)


def test_status_of_a_system_that_is_well(operator: Operator) -> None:
    run = create(operator.up.ready)
    operator.patch(run, status="RUNNING")
    assert operator.run("sidecar", "flush").returncode == 0

    sidecar, central = (operator.run(role, "status") for role in ("sidecar", "central"))

    assert (sidecar.returncode, central.returncode) == (0, 0), sidecar.stdout + central.stdout
    assert "0 wait" in sidecar.stdout
    assert "reachable" in sidecar.stdout
    assert "1 sources with" in central.stdout
    assert "hidden" not in central.stdout
    shown = operator.json("central", "status")
    assert (shown["attention"], shown["fleet"]["silent_count"]) == ([], 0)
    assert shown["fleet"]["run_count"] >= 1


def test_an_outage_shows_in_status_and_ends_with_it(operator: Operator) -> None:
    run = create(operator.up.ready)
    operator.signal("central", signal.SIGSTOP)
    try:
        write_id = operator.patch(run, name="during the outage")

        assert wait_until(lambda: "away" in operator.run("sidecar", "status").stdout, 40)
        shown = operator.json("sidecar", "status")
        assert operator.run("sidecar", "status").returncode == 1
        assert "central is away" in shown["attention"]
        assert shown["spool"]["waiting"] >= 1
        assert shown["spool"]["oldest_waiting_s"] > 0
        assert "central unavailable" in {p["message"] for p in shown["problems"]}
        waiting = operator.json("sidecar", "writes")["writes"]
        assert write_id in {write["write_id"] for write in waiting}
        flush = operator.run("sidecar", "flush", "--timeout", "0.5")
        assert (flush.returncode, "left in the spool" in flush.stdout) == (75, True)
        assert operator.run("central", "status").returncode == 69
    finally:
        operator.signal("central", signal.SIGCONT)

    assert operator.run("sidecar", "flush").returncode == 0
    assert wait_until(lambda: operator.run("sidecar", "status").returncode == 0, 20)
    states = {w["write_id"]: w["state"] for w in operator.json("sidecar", "writes")["writes"]}
    assert states[write_id] == "committed"


def test_refusals_are_listed_by_user_unit_execution_and_time(operator: Operator) -> None:
    ready = operator.up.ready
    run = create(ready)
    for state in ("COMPLETED", "FAILED"):
        operator.patch(run, status=state)
    assert operator.run("sidecar", "flush").returncode == 0
    user, unit = str(ready["users"]["owner"]["user_id"]), str(ready["computing_unit_id"])

    def listed(*filters: str) -> list[int]:
        found = operator.json("central", "refusals", "ls", *filters)["refusals"]
        return [refusal["execution_id"] for refusal in found]

    matching = ("--user", user, "--unit", unit, "--execution", str(run), "--since", "1h")
    assert listed(*matching) == [run]
    for name, other in (("--user", "9999"), ("--unit", "9999"), ("--execution", "9999")):
        assert listed(name, other) == []
    table = operator.run("central", "refusals", "ls", *matching)
    assert "status-conflict" in table.stdout
    assert operator.run("central", "refusals", "ls", "--since", "soon").returncode == 2


def test_the_log_level_is_changed(operator: Operator) -> None:
    for role in ("sidecar", "central"):
        for level in ("debug", "configured"):
            done = operator.run(role, "log-level", level)
            assert (done.returncode, level in done.stdout) == (0, True), done.stderr


def test_a_silent_source_shows_and_its_closed_run_is_listed(operator: Operator) -> None:
    run = create(operator.up.ready)
    operator.signal("sidecar", signal.SIGSTOP)
    try:

        def closed() -> list[dict[str, Any]]:
            return list(
                operator.json("central", "closures", "ls", "--execution", str(run))["closures"]
            )

        assert wait_until(lambda: bool(closed()), 60)
        (closure,) = closed()
    finally:
        operator.signal("sidecar", signal.SIGCONT)

    assert closure["computing_unit_id"] == operator.up.ready["computing_unit_id"]
    assert closure["reason"] == "lease-lapsed"
    by_unit = operator.run("central", "closures", "ls", "--unit", "9999", "--since", "1h")
    assert "lease-lapsed" not in by_unit.stdout


def test_drain_delivers_and_ends_the_sidecar(operator: Operator) -> None:
    operator.patch(create(operator.up.ready), name="before the end")

    done = operator.run("sidecar", "drain")

    assert (done.returncode, "all is delivered" in done.stdout) == (0, True), done.stderr
    assert operator.run("sidecar", "status").returncode == 69
    assert operator.run("sidecar", "drain").returncode == 69
