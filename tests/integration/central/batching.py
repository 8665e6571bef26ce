"""Fixtures of the write path: executions, a source that cuts batches, replicas of central."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg
import msgspec
from prometheus_client import CollectorRegistry

from central.metrics import Metrics
from central.settings import DatabaseSettings
from central.store.batches import Batches
from central.store.bindings import MAX_CACHED_BINDINGS, BindingCache
from central.store.database import Database
from central.store.entries import EntryStore
from central.store.refusals import RefusalLog
from central.wire.entries import BatchRequest, digest_of
from dev.world import WORLD
from kit.http.large_decoder import LargeDecoder
from kit.texera.uris import UriMinter
from tests import databases

SENT_AT_MS = 1_700_000_000_000
PORT = "(logicalOpId=op,layerName=main,portId=0,isInternal=false,isInput=false)"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass
class Replica:
    """The parts of one process of central that apply batches."""

    batches: Batches
    database: Database
    metrics: Metrics

    def counted(self, sample: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(sample, labels) or 0.0


@asynccontextmanager
async def replica(
    database: databases.Database, *, max_cached: int = MAX_CACHED_BINDINGS
) -> AsyncIterator[Replica]:
    metrics = Metrics(CollectorRegistry())
    pool = Database(DatabaseSettings(database.central_url), metrics)
    cache = BindingCache(max_cached)
    try:
        entry_store, refusal_log = EntryStore(metrics), RefusalLog(pool, metrics)
        batches = Batches(pool, entry_store, cache, refusal_log, metrics, LargeDecoder())
        yield Replica(batches, pool, metrics)
    finally:
        await pool.close()


@dataclass
class Source:
    """The parts of a sidecar that make batches: id, epoch, numbered entries."""

    source_id: str = "source-a"
    epoch: str = "a" * 32
    seq: int = 0

    def entry(
        self, op: str, execution_id: int, *, age_ms: int = 0, **fields: Any
    ) -> dict[str, Any]:
        self.seq += 1
        header = {"seq": self.seq, "execution_id": execution_id, "made_at_ms": SENT_AT_MS - age_ms}
        return header | {"op": op} | fields

    def update(self, execution_id: int, **fields: Any) -> dict[str, Any]:
        return self.entry("update_execution", execution_id, **fields)

    def batch(self, number: int, *entries: dict[str, Any]) -> BatchRequest:
        raw = [msgspec.Raw(json.dumps(entry).encode()) for entry in entries]
        return BatchRequest(1, self.epoch, number, digest_of(raw), SENT_AT_MS, raw)


def outcomes(response: bytes) -> list[str]:
    """Per entry: applied, deferred, or the slug of the refusal."""
    return [
        outcome["problem"]["type"] if "problem" in outcome else outcome["outcome"]
        for outcome in json.loads(response)["outcomes"]
    ]


async def apply_batch(
    central: Replica, source: Source, number: int, *entries: dict[str, Any]
) -> list[str]:
    """The outcomes of a batch sent to `central`."""
    return outcomes(await central.batches.apply(source.source_id, source.batch(number, *entries)))


async def add_runs(
    connection: Connection, count: int, *, source_id: str | None = "source-a", status: int = 0
) -> list[int]:
    """The ids of new executions of the owner, bound to `source_id`."""
    rows = await connection.fetch(
        """
        insert into texera_db.workflow_executions
            (vid, uid, cuid, status, environment_version, starting_time)
        select $1, $2, $3, $4, 'test', now() at time zone 'utc' - interval '8 days'
        from generate_series(1, $5)
        returning eid
        """,
        WORLD.version_id,
        WORLD.owner.user_id,
        WORLD.computing_unit_id,
        status,
        count,
    )
    ids = [row["eid"] for row in rows]
    if source_id is not None:
        await bind(connection, source_id, ids)
    return ids


async def bind(connection: Connection, source_id: str, ids: Sequence[int]) -> None:
    await connection.execute(
        """
        insert into cu_metadata.bindings
            (execution_id, source_id, user_id, workflow_id, computing_unit_id, may_set_status)
        select id, $2, $3, $4, $5, not exists (
            select from cu_metadata.bindings where execution_id = id and may_set_status
        )
        from unnest($1::int[]) id
        """,
        list(ids),
        source_id,
        WORLD.owner.user_id,
        WORLD.workflow_id,
        WORLD.computing_unit_id,
    )


async def run(connection: Connection, execution_id: int) -> asyncpg.Record:
    row = await connection.fetchrow(
        """
        select *, now() at time zone 'utc' - last_update_time as age
        from texera_db.workflow_executions where eid = $1
        """,
        execution_id,
    )
    assert row is not None
    return row


async def count_applications(connection: Connection) -> None:
    """From now on each update of a run leaves a row in `public.applied`."""
    await connection.execute(
        """
        create table public.applied (eid int, status int);
        create function public.note_application() returns trigger
        language plpgsql security definer as $$
        begin
            insert into public.applied values (new.eid, new.status);
            return new;
        end $$;
        create trigger note_application after update on texera_db.workflow_executions
        for each row execute function public.note_application();
        """
    )


async def applications(connection: Connection) -> list[tuple[int, int]]:
    return [(r["eid"], r["status"]) for r in await connection.fetch("table public.applied")]


def uris(execution_id: int) -> UriMinter:
    return UriMinter(WORLD.workflow_id, execution_id)
