"""The log for whoever searches it: each problem is found by its request id, each write by its own.

A whole system whose logs are files: what a caller got is searched in them as `grep` would.
"""

import http.client
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from dev.polling import wait_until
from dev.tokens import mint
from tests.databases import open_folder
from tests.journeys.calls import call, create
from tests.systems import Up, running_system

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACED = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}


class Logs:
    """The logs of a running system."""

    def __init__(self, up: Up, folder: Path) -> None:
        self.up = up
        self._files = {role: next(folder.rglob(f"{role}.log")) for role in ("sidecar", "central")}

    def found(self, role: str, text: str) -> list[dict[str, Any]]:
        """The lines that contain the text."""
        lines = self._files[role].read_text().splitlines()
        return [json.loads(line) for line in lines if text in line and line.startswith("{")]

    def one(self, role: str, text: str, message: str) -> dict[str, Any]:
        """The one line of this message with the text, as soon as it is there."""

        def matching() -> list[dict[str, Any]]:
            return [line for line in self.found(role, text) if line["message"] == message]

        assert wait_until(lambda: bool(matching()), 10), (role, text, message)
        (line,) = matching()
        return line


@pytest.fixture(scope="module", params=["response cache", "aiohttp alone"])
def logs(request: pytest.FixtureRequest) -> Iterator[Logs]:
    alone = ("--set", "SIDECAR_RESPONSE_CACHE=false") if request.param == "aiohttp alone" else ()
    with open_folder() as folder, running_system(folder, *alone) as up:
        yield Logs(up, folder)


def test_a_problem_of_the_sidecars_own_is_in_its_log(logs: Logs) -> None:
    ready = logs.up.ready
    status, problem, _ = call(ready, "GET", "/v1/executions/7")
    assert (status, problem["type"]) == (401, "token-missing")

    line = logs.one("sidecar", problem["request_id"], "call failed")

    assert (line["problem"], line["execution_id"]) == ("token-missing", 7)
    assert line["route"] == "none"  # the guard refuses before a route is chosen
    assert logs.found("central", problem["request_id"]) == []


def test_a_problem_of_centrals_is_in_both_logs_under_one_id(logs: Logs) -> None:
    ready = logs.up.ready
    stranger = ready["users"]["stranger"]
    execution_id = create(ready)
    path = f"/v1/executions/{execution_id}"
    status, problem, _ = call(ready, "GET", path, token=stranger["token"])
    assert (status, problem["type"]) == (404, "execution-not-found")

    for role in ("sidecar", "central"):
        line = logs.one(role, problem["request_id"], "call failed")
        assert (line["problem"], line["execution_id"]) == ("execution-not-found", execution_id)
        # At its first call the sidecar has yet to learn the user of a token.
        assert line.get("user_id", stranger["user_id"]) == stranger["user_id"]
    assert logs.one("sidecar", problem["request_id"], "call failed")["computing_unit_id"]


def test_a_repeated_write_that_fails_is_logged_as_the_first(logs: Logs) -> None:
    """The second and later writes with one head do not go through aiohttp."""
    ready = logs.up.ready
    owner = ready["users"]["owner"]
    execution_id = create(ready)
    connection = http.client.HTTPConnection(urlsplit(ready["sidecar"]).netloc, timeout=20)
    headers = {"Authorization": f"Bearer {owner['token']}", "Content-Type": "application/json"}

    def patch(body: Any) -> tuple[int, dict[str, Any]]:
        path, document = f"/v1/executions/{execution_id}", json.dumps(body)
        connection.request("PATCH", path, document, {**headers, **TRACED})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    assert [patch({"name": name})[0] for name in ("one", "two")] == [202, 202]
    status, problem = patch({"canary": 1})
    connection.close()
    assert (status, problem["type"]) == (400, "invalid-request")

    line = logs.one("sidecar", problem["request_id"], "call failed")

    assert (line["method"], line["route"]) == ("PATCH", "/v1/executions/{execution_id}")
    assert (line["user_id"], line["execution_id"]) == (owner["user_id"], execution_id)
    assert line["computing_unit_id"] == ready["computing_unit_id"]
    assert line["trace_id"] == TRACE_ID
    assert logs.found("sidecar", "canary") == []


def test_a_refused_write_is_in_both_logs_under_the_id_of_its_batch(logs: Logs) -> None:
    ready = logs.up.ready
    owner = ready["users"]["owner"]
    execution_id = create(ready)
    path = f"/v1/executions/{execution_id}"
    for state in ("COMPLETED", "FAILED"):
        status, written, _ = call(ready, "PATCH", path, {"status": state}, token=owner["token"])
        assert status == 202

    refused = logs.one("sidecar", written["write_id"], "write refused")

    assert refused["problem"] == "status-conflict"
    assert (refused["user_id"], refused["execution_id"]) == (owner["user_id"], execution_id)
    assert refused["computing_unit_id"] == ready["computing_unit_id"]
    line = logs.one("central", refused["request_id"], "entry refused")
    assert (line["problem"], line["execution_id"]) == ("status-conflict", execution_id)
    assert (line["user_id"], line["computing_unit_id"]) == (
        owner["user_id"],
        ready["computing_unit_id"],
    )
    assert written["write_id"].endswith(f"-{line['seq']}")


def test_every_problem_of_a_flood_is_found_and_its_lines_are_few(logs: Logs) -> None:
    ready, count = logs.up.ready, 60
    token = mint(1, ttl_s=-3600)
    before = len(logs.found("sidecar", '"call failed"'))

    ids = [
        call(ready, "GET", f"/v1/executions/{number}", token=token)[1]["request_id"]
        for number in range(1, count)
    ]

    assert wait_until(lambda: all(logs.found("sidecar", one) for one in ids), 15)
    assert len(logs.found("sidecar", '"call failed"')) - before < count / 2


def test_the_level_changes_while_the_process_runs(logs: Logs) -> None:
    pid = logs.up.published("sidecar")["pid"]

    os.kill(pid, signal.SIGUSR1)
    line = logs.one("sidecar", '"log_level": "debug"', "log level changed")
    os.kill(pid, signal.SIGUSR2)
    back = logs.one("sidecar", '"log_level": "info"', "log level changed")

    assert line["time"] <= back["time"]
    assert call(logs.up.ready, "GET", "/v1/executions/1")[0] == 401  # it serves


async def test_the_database_names_central_and_its_host(logs: Logs) -> None:
    connection = await asyncpg.connect(logs.up.ready["database"])
    try:
        rows = await connection.fetch("select application_name from pg_stat_activity")
    finally:
        await connection.close()

    name = f"texera-cu-central {os.uname().nodename}"
    assert name[:63] in {row["application_name"] for row in rows}
