"""The process: readiness without the database, drain, exit codes."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError

import pytest

from dev.polling import wait_until
from dev.tokens import JWT_SECRET, mint
from dev.world import WORLD
from tests.databases import ROOT, Database, free_port
from tests.integration.central.rows import until_blocking

RUN = f"/v1/executions/{WORLD.completed_execution_id}"


class Central:
    """A `python -m central serve` process."""

    def __init__(self, database_url: str, **variables: str) -> None:
        self.port, self.ops_port = free_port(), free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "central", "serve"],
            cwd=ROOT,
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "CENTRAL_DATABASE_URL": database_url,
                "CENTRAL_JWT_SECRET": JWT_SECRET,
                "CENTRAL_LISTEN": f"127.0.0.1:{self.port}",
                "CENTRAL_OPS_LISTEN": f"127.0.0.1:{self.ops_port}",
                **variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ops(self, path: str) -> tuple[int, Any]:
        return fetch(self.ops_port, path)[:2]

    def is_ready(self) -> bool:
        try:
            return self.ops("/readyz")[0] == 200
        except OSError:
            return False

    def is_refusing(self) -> bool:
        """Whether new connections are refused."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0

    def read_run(self) -> tuple[int, Any, dict[str, str]]:
        return fetch(self.port, RUN, {"Authorization": f"Bearer {mint(WORLD.owner.user_id)}"})

    def end(self) -> tuple[int, list[dict[str, Any]]]:
        """The exit code and the log."""
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=30)
        return self.process.returncode, [json.loads(line) for line in log.splitlines()]


@contextmanager
def running(database_url: str, **variables: str) -> Iterator[Central]:
    central = Central(database_url, **variables)
    try:
        wait_until(lambda: central.is_ready() or central.process.poll() is not None, 20)
        assert central.is_ready()
        yield central
    finally:
        if central.process.poll() is None:
            central.process.kill()
        central.process.communicate()


def fetch(
    port: int, path: str, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
            body, status, got = response.read(), response.status, dict(response.headers)
    except HTTPError as error:
        with error:
            body, status, got = error.read(), error.code, dict(error.headers)
    is_json = "json" in got.get("Content-Type", "")
    return status, json.loads(body) if is_json else body.decode(), got


def test_serve_starts_and_stops_cleanly(database: Database) -> None:
    with running(database.central_url) as central:
        status, run, _ = central.read_run()
        _, metrics = central.ops("/metrics")
        _, facts = central.ops("/status")

        code, log = central.end()

    assert (status, run["status"]) == (200, "COMPLETED")
    read = 'method="GET",outcome="ok",route="/v1/executions/{execution_id}"'
    assert f"central_requests_total{{{read}}} 1.0" in metrics
    assert "central_statement_seconds_count" in metrics
    assert facts["config"]["database_url"].startswith("postgresql://cu_metadata_central@127.0.0.1")
    text = json.dumps([facts, log])
    for secret in (
        JWT_SECRET,
        JWT_SECRET.lower(),
        database.central_url.split(":")[2].split("@")[0],
    ):
        assert secret not in text
    assert code == 0
    assert [line["message"] for line in log] == ["ready", "stopped"]


def test_ready_without_the_database() -> None:
    with running(f"postgresql://central:pw@127.0.0.1:{free_port()}/texera_db") as central:
        status, problem, headers = central.read_run()
        livez, _ = central.ops("/livez")

        code, log = central.end()

    assert [line["message"] for line in log] == ["ready", "call failed", "stopped"]
    assert (status, problem["type"]) == (503, "database-unavailable")
    assert log[1]["request_id"] == problem["request_id"]
    assert int(headers["Retry-After"]) >= 1
    assert headers["X-User-Id"] == str(WORLD.owner.user_id)
    assert livez == 200
    assert code == 0


async def test_running_calls_complete_during_drain(
    database: Database, owner_connection: Any
) -> None:
    with running(database.central_url) as central:
        async with owner_connection.transaction():
            await owner_connection.execute("LOCK texera_db.workflow_executions")
            reading = asyncio.ensure_future(asyncio.to_thread(central.read_run))
            await until_blocking(owner_connection)
            central.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(wait_until, central.is_refusing, 10)
            await owner_connection.execute("SELECT pg_sleep(0.5)")  # it takes its time

        status, _, _ = await reading
        assert status == 200
        assert await asyncio.to_thread(central.process.wait, 20) == 0


def test_port_in_use_exits_73_with_a_message(database: Database) -> None:
    with running(database.central_url) as central:
        second = Central(database.central_url, CENTRAL_LISTEN=f"127.0.0.1:{central.port}")
        _, log = second.process.communicate(timeout=30)

    assert second.process.returncode == 73
    assert "cannot start" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_invalid_settings_exit_64(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "central", command],
        check=False,
        cwd=ROOT,
        env={"PATH": os.environ.get("PATH", os.defpath)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 64
    assert len(done.stderr.splitlines()) == 2
    assert "CENTRAL_DATABASE_URL: must be set" in done.stderr
