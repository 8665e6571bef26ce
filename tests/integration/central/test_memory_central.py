"""The simulation's central in memory, held against the real store: one history, the same outcomes.

Batches of all kinds of entries are sent, repeated, withdrawn and sent out of step, under new
epochs; rows are locked, bindings taken over, runs closed as orphans. Every response is the same,
byte for byte, and so are the rows in the end.
"""

import random
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from central.domain.fold import Execution, WriterStatus
from central.problems import BatchOutOfStep
from central.wire.entries import BatchRequest
from dev.world import WORLD
from tests.databases import Database, connected
from tests.integration.central.batching import (
    PORT,
    Connection,
    Replica,
    Source,
    add_runs,
    bind,
    replica,
    run,
    uris,
)
from tests.simulation.central import MemoryCentral

STEPS = 60
SOURCES = ("a", "b")
COLUMNS = ("result", "log_location", "runtime_stats_uri", "name", "bookmarked")


class Both:
    """The real store and the one in memory, with the same runs and bindings."""

    def __init__(
        self, real: Replica, connection: Connection, ids: list[int], chance: random.Random
    ) -> None:
        self.real = real
        self.connection = connection
        self.ids = ids
        self.chance = chance
        self.memory = MemoryCentral()
        self.epoch_count = 0
        self.sources = {name: self._new_epoch(name) for name in SOURCES}
        self.numbers = dict.fromkeys(SOURCES, 0)
        self.last: dict[str, BatchRequest] = {}
        for execution_id in ids:
            self.memory.executions[execution_id] = Execution(
                execution_id=execution_id,
                writer_status=WriterStatus.WRITER,
                user_id=WORLD.owner.user_id,
                workflow_id=WORLD.workflow_id,
            )
            self.memory.bindings[execution_id, "a"] = None
            self.memory.runners[execution_id] = "a"

    async def step(self) -> None:
        chance = self.chance
        name = chance.choice(SOURCES)
        match chance.randrange(14):
            case 0:
                self.sources[name], self.numbers[name] = self._new_epoch(name), 0
                self.last.pop(name, None)
            case 1:
                await self._take_over(name, chance.choice(self.ids))
            case 2:
                await self._close(chance.choice(self.ids))
            case 3 if name in self.last:
                await self._send(name, self.last[name])
            case 4:
                await self._send(name, self._batch(name, self.numbers[name] + 2))
            case 5:
                await self._send_while_locked(name, chance.choice(self.ids))
            case 6:
                await self._withdraw(name)
            case _:
                await self._send_next(name)

    async def _withdraw(self, name: str) -> None:
        """The last batch, or one that had not arrived; then a late copy of it."""
        batch = self.last.get(name) if self.chance.random() < 0.5 else None
        if batch is None:
            self.numbers[name] += 1
            batch = self._batch(name, self.numbers[name])
        empty = self.sources[name].batch(batch.batch)
        withdrawal = msgspec.structs.replace(empty, withdraws=batch.digest)
        await self._send(name, withdrawal)
        await self._send(name, batch)
        await self._send(name, withdrawal)
        self.last[name] = withdrawal

    async def _send_next(self, name: str) -> None:
        self.numbers[name] += 1
        batch = self.last[name] = self._batch(name, self.numbers[name])
        await self._send(name, batch)

    async def _send(self, name: str, batch: BatchRequest) -> None:
        try:
            expected = self.memory.apply(name, batch)
        except BatchOutOfStep as problem:
            with pytest.raises(BatchOutOfStep, match=problem.detail):
                await self.real.batches.apply(name, batch)
        else:
            assert await self.real.batches.apply(name, batch) == expected

    async def _send_while_locked(self, name: str, execution_id: int) -> None:
        query = "select from texera_db.workflow_executions where eid = $1 for update"
        async with self.connection.transaction():
            await self.connection.execute(query, execution_id)
            self.memory.locked.add(execution_id)
            await self._send_next(name)
        self.memory.locked.clear()

    def _batch(self, name: str, number: int) -> BatchRequest:
        source, chance = self.sources[name], self.chance
        entries = [self._entry(source) for _ in range(chance.randrange(6))]
        return source.batch(number, *entries)

    def _entry(self, source: Source) -> dict[str, Any]:
        chance = self.chance
        execution_id = chance.choice(self.ids)
        port = PORT.replace("portId=0", f"portId={chance.randrange(2)}")
        minter = uris(execution_id if chance.random() < 0.9 else execution_id + 1)
        size = chance.choice([{}, {"result_bytes": chance.randrange(99)}])
        match chance.randrange(9):
            case 0 | 1 | 2:
                status = chance.choice([-1, 0, 1, 2, 2, 3, 4, 5])
                return source.update(execution_id, status=status, name=f"n{chance.randrange(9)}")
            case 3:
                return source.entry(
                    "put_port_result",
                    execution_id,
                    global_port_id=port,
                    result_uri=minter.result_uri(port),
                    **size,
                )
            case 4:
                return source.entry(
                    "set_port_result_bytes", execution_id, global_port_id=port, result_bytes=7
                )
            case 5:
                return source.entry(
                    "put_console", execution_id, operator_id="op", uri=minter.console_uri("op")
                )
            case 6:
                return source.entry("set_console_bytes", execution_id, operator_id="op", bytes=8)
            case 7:
                return source.entry("delete_uris", execution_id)
            case _:
                return source.entry("no_such_operation", execution_id)

    def _new_epoch(self, name: str) -> Source:
        self.epoch_count += 1
        return Source(name, f"{self.epoch_count:032x}")

    async def _take_over(self, name: str, execution_id: int) -> None:
        if name in self.memory.sources_of(execution_id):
            return
        is_open = self.memory.executions[execution_id].status < 3
        self.memory.leases.clear()
        self.memory.bind(name, execution_id, 0.0)
        if is_open:
            await self.connection.execute(
                "update cu_metadata.bindings set may_set_status = false,"
                " revoked_at = now(), revoked_reason = 'taken-over' where execution_id = $1",
                execution_id,
            )
        await self.connection.execute(
            "delete from cu_metadata.bindings where execution_id = $1 and source_id = $2",
            execution_id,
            name,
        )
        await bind(self.connection, name, [execution_id])

    async def _close(self, execution_id: int) -> None:
        if self.memory.executions[execution_id].status >= 3:
            return
        self.memory.close(execution_id)
        async with self.connection.transaction():
            await self.connection.execute(
                "update texera_db.workflow_executions set status = 4 where eid = $1", execution_id
            )
            await self.connection.execute(
                "insert into cu_metadata.terminal_statuses (execution_id, status, provisional)"
                " values ($1, 4, true) on conflict (execution_id) do update"
                " set status = 4, provisional = true, source_id = null",
                execution_id,
            )

    async def compare_rows(self) -> None:
        for execution_id in self.ids:
            row, expected = await run(self.connection, execution_id), self.memory
            assert row["status"] == expected.executions[execution_id].status
            for column in COLUMNS:
                if column in expected.columns[execution_id]:
                    assert row[column] == expected.columns[execution_id][column]
            results = await self.connection.fetch(
                "select global_port_id, result_uri, result_size"
                " from texera_db.operator_port_executions where workflow_execution_id = $1",
                execution_id,
            )
            assert {key: (uri, size) for key, uri, size in results} == {
                key: (row.uri, row.size_bytes)
                for key, row in expected.executions[execution_id].results.items()
            }


@pytest.mark.parametrize("seed", range(8))
async def test_memory_and_store_give_the_same_responses_and_rows(
    database: Database, seed: int
) -> None:
    async with AsyncExitStack() as stack:
        real = await stack.enter_async_context(replica(database))
        connection = await stack.enter_async_context(connected(database.owner_url))
        both = Both(
            real, connection, await add_runs(connection, 3, source_id="a"), random.Random(seed)
        )

        for _ in range(STEPS):
            await both.step()

        await both.compare_rows()
        kinds = {settled.result for settled in both.memory.settled}
        assert kinds >= {"applied", "unknown-operation"}
