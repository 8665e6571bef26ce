"""A system with short leases, and a computing unit that can be killed."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from dev.polling import wait_until
from dev.processes import RunFolder
from dev.ready import Ready
from tests.databases import free_port
from tests.systems import Up, running_system

LEASE_S = 6.0
PERIOD_S = 0.5
PATIENCE_S = 60.0
"""Generous: a late heartbeat on a busy machine costs one more lease."""

LISTENER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    listener.accept()[0].close()
"""


@dataclass
class Unit:
    """A process that listens on the computing unit's port."""

    port: int
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", LISTENER, str(self.port)])
        assert wait_until(self.accepts_connections, PATIENCE_S)

    def accepts_connections(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class Pod:
    """A running system with a computing unit."""

    up: Up
    unit: Unit

    @property
    def system(self) -> Ready:
        return self.up.ready

    def kill(self, role: str) -> None:
        """SIGKILL to the current process of the role."""
        self.folder.signal(signal.SIGKILL, role)
        assert wait_until(lambda: not self.folder.pids(role), PATIENCE_S)

    def restart(self, role: str) -> None:
        self.up.restart(role)
        assert wait_until(lambda: is_ready(self.system, role), PATIENCE_S)

    @property
    def folder(self) -> RunFolder:
        marker = self.up.published("sidecar")["env"]["DEV_RUN"]
        return RunFolder(Path(marker.rpartition(":")[0]))

    def metric(self, service: str, sample: str) -> float:
        """The sum of a sample over its labels; the sample may name some."""
        pattern = re.compile(rf"^{re.escape(sample)}(?:\{{[^}}]*\}})? (\S+)$", re.MULTILINE)
        try:
            with urllib.request.urlopen(f"{self.system[service]}/metrics") as response:  # type: ignore[literal-required]  # noqa: S310
                return sum(map(float, pattern.findall(response.read().decode())))
        except OSError:
            return 0.0

    async def row(self, sql: str, *args: Any) -> asyncpg.Record:
        connection = await asyncpg.connect(self.system["database"])
        try:
            row = await connection.fetchrow(sql, *args)
        finally:
            await connection.close()
        assert row is not None
        return row

    async def ending(self, execution_id: int) -> tuple[int, str | None]:
        """The run's status, and the reason if the closer closed it."""
        row = await self.row(
            "select e.status, t.reason from texera_db.workflow_executions e"
            " left join cu_metadata.terminal_statuses t on t.execution_id = e.eid and provisional"
            " where e.eid = $1",
            execution_id,
        )
        return row["status"], row["reason"]

    def serves_for(self, seconds: float) -> None:
        """Waits until central has served this long without interruption and then made a pass."""
        assert wait_until(
            lambda: self.metric("central_ops", "central_uninterrupted_seconds") > seconds,
            PATIENCE_S + seconds,
        )
        passes = self.metric("central_ops", "central_closer_passes_total")
        assert wait_until(
            lambda: self.metric("central_ops", "central_closer_passes_total") > passes + 1,
            PATIENCE_S,
        )


def is_ready(system: Ready, role: str) -> bool:
    try:
        with urllib.request.urlopen(f"{system[f'{role}_ops']}/readyz") as response:  # type: ignore[literal-required]  # noqa: S310
            return bool(response.status == 200)
    except OSError:
        return False


@contextmanager
def running_pod(folder: Path, lease_s: float = LEASE_S, **more: str) -> Iterator[Pod]:
    unit = Unit(free_port())
    settings = {
        "CENTRAL_LEASE_S": lease_s,
        "CENTRAL_CLOSER_PERIOD_S": PERIOD_S,
        "SIDECAR_LEASE_RENEW_S": PERIOD_S,
        "SIDECAR_CU_HEALTH": f"127.0.0.1:{unit.port}",
        **more,
    }
    arguments = [f"--set={name}={value}" for name, value in settings.items()]
    unit.start()
    try:
        with running_system(folder, *arguments) as up:
            yield Pod(up, unit)
    finally:
        unit.kill()
