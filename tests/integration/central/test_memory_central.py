"""The simulation's central in memory, held against the real store: one history, the same outcomes.

Batches of all kinds of entries are sent, repeated, withdrawn and sent out of step, under new
epochs; rows are locked, executions bound, taken over and abandoned, leases renewed and left to
lapse, orphans closed. Every response is the same, of batches byte for byte, and so are the rows in
the end. Boots are not simulated: `test_leases_model.py` holds them against a model of their own.
"""

import random
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import msgspec
import pytest
from msgspec.structs import asdict

from central.auth_settings import LimitSettings
from central.domain.callers import User
from central.domain.fold import Execution, WriterStatus
from central.problems import BatchOutOfStep, BoundElsewhere
from central.store.bindings import BindingQuota, Bindings
from central.store.leases import Leases, RenewalAvailability
from central.store.orphans import CloseReason, ExecutionCloser, OrphanStore
from central.store.warehouses import Warehouses
from central.wire.entries import BatchRequest
from central.wire.leases import AbandonedExecutions, AbandonReason, LostReason, RenewedLeases
from dev.world import WORLD
from tests.databases import Database, connected
from tests.integration.central.batching import (
    PORT,
    Connection,
    Replica,
    Source,
    add_runs,
    replica,
    run,
    uris,
)
from tests.integration.central.lease_fixtures import advance
from tests.simulation.central import LEASE_S, MemoryCentral

STEPS = 150
ADVANCE_S = 37.0
"""No multiple is near a lease: the seconds that the test itself takes decide nothing."""
OWNER = User(WORLD.owner.user_id, WORLD.owner.role, 2**31)
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
        self.now = 0.0
        database, metrics, closer = real.database, real.metrics, ExecutionCloser(real.metrics)
        quota = BindingQuota(LimitSettings(user_open_bindings=0, source_open_bindings=0), metrics)
        self.bindings = Bindings(database, Warehouses(), closer, quota, LEASE_S)
        self.leases = Leases(database, RenewalAvailability(database, LEASE_S), metrics, LEASE_S)
        self.orphans = OrphanStore(database, closer, LEASE_S)
        self.happened: Counter[str] = Counter()
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
        match chance.randrange(20):
            case 0:
                self.sources[name], self.numbers[name] = self._new_epoch(name), 0
                self.last.pop(name, None)
            case 1 | 2:
                await self._bind(name, chance.choice(self.ids))
            case 3 | 4:
                await self._renew(name)
            case 5 | 6:
                self.now += ADVANCE_S
                await advance(self.connection, ADVANCE_S)
            case 7 if chance.random() < 0.5:
                await self._close_lapsed()
            case 8:
                await self._abandon(name, chance.choice(self.ids))
            case 9 if name in self.last:
                await self._send(name, self.last[name])
            case 10:
                await self._send(name, self._batch(name, self.numbers[name] + 2))
            case 11:
                await self._send_while_locked(name, chance.choice(self.ids))
            case 12 | 13:
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
                status = chance.choice([-1, 0, 1, 2] * 6 + [3, 4, 5])
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

    async def _bind(self, name: str, execution_id: int) -> None:
        work = partial(self.bindings.bind, user=OWNER, source_id=name, execution_id=execution_id)
        is_other = self.memory.runners[execution_id] != name
        try:
            self.memory.bind(name, execution_id, self.now)
        except BoundElsewhere as problem:
            with pytest.raises(BoundElsewhere, match=problem.detail):
                await self.real.database.run(work)
            self.happened["refused"] += 1
        else:
            bound = asdict(await self.real.database.run(work))
            expected = self.memory._bound(execution_id)
            expected["computing_unit_id"] = WORLD.computing_unit_id
            assert {key: bound[key] for key in expected} == expected
            is_runner = self.memory.runners[execution_id] == name
            self.happened["taken over" if is_other and is_runner else "bound"] += 1

    async def _renew(self, name: str) -> None:
        ids = self.chance.sample(self.ids, 3)
        expected = self.memory.renew(name, ids, self.now)
        renewed = await self.leases.renew(name, ids)
        assert by_id(renewed) == by_id(expected)
        self.happened.update(lease.reason.value for lease in renewed.lost)

    async def _close_lapsed(self) -> None:
        lapsed = await self.orphans.lapsed(None)
        reasons = dict.fromkeys(lapsed, CloseReason.LEASE_LAPSED)
        closed = await self.orphans.close(reasons, operator_override=True)
        assert closed == sorted(self.memory.close_lapsed(self.now))
        self.happened["orphans closed"] += len(closed)

    async def _abandon(self, name: str, execution_id: int) -> None:
        abandoned = AbandonedExecutions([execution_id], self.chance.choice(list(AbandonReason)))
        closed = await self.bindings.abandon(name, abandoned)
        assert closed == self.memory.abandon(name, abandoned)
        self.happened["abandoned"] += len(closed.closed)

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

    async def compare_bindings(self) -> None:
        bindings = await self.connection.fetch(
            "select execution_id, source_id, revoked_reason, may_set_status"
            " from cu_metadata.bindings"
        )
        assert {(b["execution_id"], b["source_id"]): b["revoked_reason"] for b in bindings} == (
            self.memory.bindings
        )
        runners = {b["execution_id"]: b["source_id"] for b in bindings if b["may_set_status"]}
        assert runners == self.memory.runners
        leases = await self.connection.fetch(
            "select execution_id, source_id, expires_at > now() as is_live from cu_metadata.leases"
        )
        assert {row["execution_id"]: (row["source_id"], row["is_live"]) for row in leases} == {
            execution_id: (lease.source_id, lease.expires_at > self.now)
            for execution_id, lease in self.memory.leases.items()
        }


def by_id(renewed: RenewedLeases) -> dict[int, LostReason]:
    return {lease.execution_id: lease.reason for lease in renewed.lost}


@pytest.mark.parametrize("seed", range(8))
async def test_memory_and_store_give_the_same_responses_and_rows(
    database: Database, seed: int
) -> None:
    async with AsyncExitStack() as stack:
        real = await stack.enter_async_context(replica(database))
        connection = await stack.enter_async_context(connected(database.owner_url))
        both = Both(
            real, connection, await add_runs(connection, 6, source_id="a"), random.Random(seed)
        )

        for _ in range(STEPS):
            await both.step()
            await both.compare_bindings()

        await both.compare_rows()
        assert both.happened.keys() >= {"bound", "orphans closed", "not-bound"}
        kinds = {settled.result for settled in both.memory.settled}
        assert kinds >= {"applied", "unknown-operation"}
