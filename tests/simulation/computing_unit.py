"""The computing unit: writes to a few runs, and keeps what was acknowledged to it.

Each run binds, writes one thing after the other, and ends. What is refused for now (the sidecar is
down, its spool full) is tried again; a run that central took away is given up.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from kit.texera.statuses import Status
from kit.texera.uris import UriMinter
from sidecar import write_operations as operations
from sidecar.problems import CentralUnavailable, SpoolFull, SpoolUnavailable, UpstreamProblem
from sidecar.spool.bindings import Binding
from sidecar.spool.entry import NewEntry, WriteRecord
from sidecar.wire import v1
from tests.simulation.sidecars import ConnectionLost, Sidecar
from tests.simulation.trace import Trace
from tests.simulation.virtual_loop import VirtualLoop

PAUSE_S = 3.0
WAIT_S = 20.0
GIVES_UP_AFTER_S = 600.0
STEADY = [Status.RUNNING, Status.RUNNING, Status.PAUSED, Status.PAUSING, Status.RESUMING]
ENDS = [Status.COMPLETED, Status.COMPLETED, Status.FAILED, Status.KILLED]
_ports = [
    f"(logicalOpId=op{n},layerName=main,portId=0,isInternal=false,isInput=false)" for n in (1, 2)
]


@dataclass(frozen=True)
class Acknowledged:
    """`settled` is what was returned to a caller that waited."""

    seq: int
    new: NewEntry
    settled: WriteRecord | None


@dataclass(frozen=True)
class Pace:
    step_count: int
    gap_s: float


class ComputingUnit:
    def __init__(
        self, sidecar: Sidecar, loop: VirtualLoop, chance: random.Random, trace: Trace
    ) -> None:
        self.sidecar = sidecar
        self._loop = loop
        self._chance = chance
        self._trace = trace
        self.acknowledged: list[Acknowledged] = []

    async def run(self, execution_id: int, pace: Pace) -> None:
        """One run, from its binding to its end."""
        chance = self._chance
        for _ in range(pace.step_count):
            await asyncio.sleep(chance.expovariate(1 / pace.gap_s))
            if not await self._write(execution_id, self._next_write):
                return
        end = chance.choice(ENDS)
        if not await self._write(execution_id, lambda binding: _status(binding, end)):
            return
        if end is Status.KILLED and chance.random() < 0.5:
            await self._write(execution_id, lambda binding: _status(binding, Status.COMPLETED))

    async def _write(self, execution_id: int, make: Callable[[Binding], NewEntry]) -> bool:
        """False if the run is another's now, or nobody could be reached for long."""
        until = self._loop.time() + GIVES_UP_AFTER_S
        while self._loop.time() < until:
            try:
                await self._append(make(await self._binding(execution_id)))
            except UpstreamProblem as problem:
                if problem.slug == "bound-elsewhere":
                    return False
            except (ConnectionLost, SpoolFull, SpoolUnavailable, CentralUnavailable):
                pass
            else:
                return True
            await asyncio.sleep(self._chance.uniform(0, 2 * PAUSE_S))
        return False

    async def _binding(self, execution_id: int) -> Binding:
        process = self.sidecar.process
        if process is None or not process.is_open:
            raise ConnectionLost
        known = process.spool.bindings.binding(execution_id)
        return known if known is not None else await self.sidecar.call(process.bind(execution_id))

    async def _append(self, new: NewEntry) -> None:
        process = self.sidecar.process
        if process is None:
            raise ConnectionLost
        seq = await self.sidecar.call(process.append(new))
        settled: WriteRecord | None = None
        self._trace.add(self._loop.time(), self.sidecar.source_id[:4], "acknowledged", seq)
        position = len(self.acknowledged)
        self.acknowledged.append(Acknowledged(seq, new, None))
        if new.coalesce_key is None and self._chance.random() < 0.1:
            try:
                settled = await self.sidecar.call(process.delivery.wait_settled(seq, WAIT_S))
            except ConnectionLost:
                return
            self.acknowledged[position] = Acknowledged(seq, new, settled)

    def _next_write(self, binding: Binding) -> NewEntry:
        chance, user = self._chance, binding.user_id
        uris = UriMinter(binding.workflow_id, binding.execution_id, binding.warehouse)
        port, operator = chance.choice(_ports), chance.choice(["op1", "op2"])
        size = chance.randrange(1_000_000)
        match chance.randrange(9):
            case 0 | 1:
                return _status(binding, chance.choice(STEADY))
            case 2:
                result = v1.PortResult(uris.result_uri(port))
                return operations.put_port_result(port, result, binding, user)
            case 3 | 4:
                return operations.set_port_result_size(port, v1.PortResultSize(size), binding, user)
            case 5:
                console = v1.Console(uris.console_uri(operator))
                return operations.put_console(operator, console, binding, user)
            case 6:
                return operations.set_console_size(operator, v1.ConsoleSize(size), binding, user)
            case 7:
                text = "x" * chance.choice([1, 50, 400, 1500])
                return operations.update_execution({"result": text}, binding, user)
            case _:
                return operations.update_execution({"runtime_stats_bytes": size}, binding, user)


def _status(binding: Binding, status: Status) -> NewEntry:
    return operations.update_execution({"status": status.value}, binding, binding.user_id)
