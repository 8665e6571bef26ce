"""Shared by tests of leases and the orphan closer: replicas, advancing time, leased runs."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from prometheus_client import CollectorRegistry

from central.jobs.orphan_closer import OrphanCloser
from central.metrics import Metrics
from central.settings import DatabaseSettings
from central.store.database import Database
from central.store.leases import Leases, RenewalAvailability
from central.store.orphans import ExecutionCloser, OrphanStore
from central.wire.leases import LostReason
from tests import databases
from tests.integration.central.batching import Connection, add_runs

LEASE_S = 90.0
RENEW_S = 20.0


@dataclass
class Replica:
    """The parts of one central process that handle leases."""

    database: Database
    metrics: Metrics
    leases: Leases
    closer: OrphanCloser

    async def renew(self, source_id: str, ids: Sequence[int]) -> dict[int, LostReason]:
        """Why leases were lost; empty if all of them were renewed."""
        response = await self.leases.renew(source_id, ids)
        assert response.lease_s == LEASE_S
        return {lease.execution_id: lease.reason for lease in response.lost}

    async def run_once(self) -> int:
        """A heartbeat and a pass, as in the closer's loop. Returns how many were closed."""
        uninterrupted_s = await self.closer.heartbeat()
        assert uninterrupted_s is not None
        return await self.closer.run_once(uninterrupted_s)

    def counted(self, sample: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(sample, labels) or 0.0


@asynccontextmanager
async def replica(database: databases.Database) -> AsyncIterator[Replica]:
    metrics = Metrics(CollectorRegistry())
    pool = Database(DatabaseSettings(database.central_url, 0, 5), metrics)
    availability = RenewalAvailability(pool, LEASE_S)
    orphans = OrphanStore(pool, ExecutionCloser(metrics), LEASE_S)
    closer = OrphanCloser(availability, orphans, metrics, lease_s=LEASE_S, period_s=10.0)
    try:
        yield Replica(pool, metrics, Leases(pool, availability, metrics, LEASE_S), closer)
    finally:
        await pool.close()


async def advance(connection: Connection, seconds: float) -> None:
    """Moves all timestamps into the past, as if this much time had passed."""
    await connection.execute(
        """
        with leases as (
            update cu_metadata.leases set expires_at = expires_at - make_interval(secs => $1)
        ), bindings as (
            update cu_metadata.bindings set created_at = created_at - make_interval(secs => $1)
        ), boots as (
            update cu_metadata.boots set started_at = started_at - make_interval(secs => $1),
                superseded_at = superseded_at - make_interval(secs => $1)
        ), units as (
            update texera_db.workflow_computing_unit
            set terminate_time = terminate_time - make_interval(secs => $1)
        ), runs as (
            update texera_db.workflow_executions
            set last_update_time = last_update_time - make_interval(secs => $1)
        )
        update cu_metadata.renewal_availability set
            available_since = available_since - make_interval(secs => $1),
            heartbeat_at = heartbeat_at - make_interval(secs => $1)
        """,
        float(seconds),
    )


async def serve_for(connection: Connection, central: Replica, seconds: float) -> None:
    """Advances time while a replica sends its heartbeats."""
    step_s = LEASE_S / 9
    while seconds > 0:
        await central.closer.heartbeat()
        await advance(connection, min(step_s, seconds))
        seconds -= step_s
    await central.closer.heartbeat()


async def add_leased(
    connection: Connection, count: int, *, source_id: str = "source-a", unit_id: int | None = None
) -> list[int]:
    """New runs bound to the source, each with a full lease."""
    ids = await add_runs(connection, count, source_id=source_id, status=1)
    if unit_id is not None:
        await connection.execute(
            "update texera_db.workflow_executions set cuid = $1 where eid = any ($2)", unit_id, ids
        )
        await connection.execute(
            "update cu_metadata.bindings set computing_unit_id = $1 where execution_id = any ($2)",
            unit_id,
            ids,
        )
    await connection.execute(
        """
        insert into cu_metadata.leases (execution_id, source_id, computing_unit_id, expires_at)
        select execution_id, source_id, computing_unit_id, now() + make_interval(secs => $2)
        from cu_metadata.bindings where execution_id = any ($1)
        """,
        ids,
        LEASE_S,
    )
    return ids


async def statuses(connection: Connection, ids: Sequence[int]) -> list[int]:
    rows = await connection.fetch(
        "select status from texera_db.workflow_executions where eid = any ($1) order by eid", ids
    )
    return [row["status"] for row in rows]


async def reasons(connection: Connection, ids: Sequence[int]) -> dict[int, str | None]:
    """The reasons of runs that are provisionally closed."""
    rows = await connection.fetch(
        "select execution_id, reason from cu_metadata.terminal_statuses"
        " where provisional and execution_id = any ($1)",
        ids,
    )
    return {row["execution_id"]: row["reason"] for row in rows}


async def lease(connection: Connection, execution_id: int) -> asyncpg.Record | None:
    return await connection.fetchrow(
        "select source_id, extract(epoch from expires_at - now())::float8 as left_s"
        " from cu_metadata.leases where execution_id = $1",
        execution_id,
    )
