"""What the simulation finds: faults that were there once, and mistakes that would be easy to make.

Each is put back, and some seed of a fixed range ends with the violation that it causes.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest

from sidecar.spool import batches
from sidecar.spool.batches import KeepRows
from sidecar.spool.entry import Batch, Outcome
from sidecar.spool.file import SpoolFile
from sidecar.spool.queue_index import DEFER_BASE_S, DEFER_MAX_S, QueueIndex
from sidecar.upstream import central_api
from sidecar.upstream.central_api import Central
from tests.simulation.network import Faults
from tests.simulation.simulation import Plan, plan_of, simulate


def found(seeds: Iterable[int]) -> Iterator[str]:
    for seed in seeds:
        yield from simulate(seed).violations


def seeds_with(
    wanted: Callable[[Plan], bool], *, count: int, within: Sequence[int] = range(20_000)
) -> list[int]:
    return [seed for seed in within if wanted(plan_of(seed))][:count]


def longest_lock_s(plan: Plan) -> float:
    return max((to - since for _, since, to in plan.locks), default=0.0)


def is_quiet(plan: Plan) -> bool:
    """No faults of the network."""
    return plan.faults == Faults() and not plan.jumps


def test_an_unbounded_deferral_exponent_ends_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    def defer(self: QueueIndex, execution_ids: Iterable[int], now: float) -> None:
        for execution_id in execution_ids:
            queue = self._queues[execution_id]
            delay_s = min(DEFER_MAX_S, DEFER_BASE_S * 2**queue.defer_count)
            queue.deferred_until = now + delay_s
            queue.defer_count += 1

    monkeypatch.setattr(QueueIndex, "defer", defer)
    seeds = seeds_with(lambda plan: longest_lock_s(plan) > 2400, count=3)

    assert any("OverflowError" in violation for violation in found(seeds))


def test_renewing_more_leases_than_a_call_takes_lets_them_lapse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(central_api, "_chunks", lambda execution_ids: [execution_ids])
    seeds = seeds_with(
        lambda plan: (
            plan.runs_per_source > plan.executions_per_call
            and is_quiet(plan)
            and plan.pace.step_count * plan.pace.gap_s > 200
        ),
        count=10,
    )

    assert any("alive, and closed" in violation for violation in found(seeds))


def test_a_cut_that_takes_the_next_entry_instead_breaks_the_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cut(
        connection: sqlite3.Connection,
        execution_ids: Iterable[int],
        max_entries: int,
        max_bytes: int,
        keep: KeepRows,
    ) -> batches.FormedBatch:
        chosen: list[Any] = []
        room_bytes = max_bytes
        for execution_id in execution_ids:
            for entry in batches.waiting(connection, execution_id):
                if len(entry.payload) > room_bytes and chosen:
                    continue  # and a smaller one of the same execution takes its place
                room_bytes -= len(entry.payload)
                chosen.append(entry)
        batch = batches._fix_members(connection, chosen[:max_entries]) if chosen else None
        return batches.FormedBatch(batch, [])

    monkeypatch.setattr(batches, "cut", cut)
    seeds = seeds_with(lambda plan: plan.batch_bytes == 2000 and bool(plan.outages), count=20)

    assert any("was settled after" in violation for violation in found(seeds))


def test_an_acknowledgement_before_the_sync_loses_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    synced = SpoolFile.write

    async def write(self: SpoolFile, *arguments: Any, **options: Any) -> Any:
        return await synced(self, *arguments, **options | {"needs_sync": False})

    monkeypatch.setattr(SpoolFile, "write", write)
    seeds = seeds_with(lambda plan: any(lost for *_, lost in plan.kills), count=20)

    assert any("was acknowledged" in v or "in the history" in v for v in found(seeds))


def test_a_batch_that_is_cut_anew_without_a_withdrawal_is_not_applied_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def deliver(self: Central, batch: Batch, sent_at_ms: int) -> list[Outcome]:
        return [] if batch.is_withdrawn else await delivered(self, batch, sent_at_ms)

    delivered = Central.deliver
    monkeypatch.setattr(Central, "deliver", deliver)
    seeds = seeds_with(
        lambda plan: (
            plan.proxy_bytes < 10**9 and plan.faults.unlimited > 0 and plan.batch_bytes > 2000
        ),
        count=20,
    )

    # Central has the number, or a late copy takes it: the writes come twice, or in a new epoch.
    assert any("was settled 2 times" in v or "more than one epoch" in v for v in found(seeds))


def test_a_deferred_entry_that_is_settled_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    settle = batches.settle

    def settle_all(connection: sqlite3.Connection, outcomes: Iterable[Outcome]) -> Any:
        return settle(connection, [Outcome(outcome.seq, "applied") for outcome in outcomes])

    monkeypatch.setattr(batches, "settle", settle_all)
    seeds = seeds_with(lambda plan: longest_lock_s(plan) > 20, count=10)

    assert any("central never got it" in violation for violation in found(seeds))
