"""A commit whose outcome central never learns: the batch sent again is applied exactly once.

Every interleaving of: the one statement or step by step, committed or rolled back, resend to the
same replica or to another, after the outcome is decided or before.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum

import pytest

from central.problems import DatabaseUnavailable
from central.wire.entries import BatchRequest
from tests.databases import Database
from tests.integration.central.batching import (
    Connection,
    Replica,
    Source,
    add_runs,
    applications,
    apply_batch,
    count_applications,
    outcomes,
    replica,
)
from tests.integration.central.commit_proxy import CommitProxy, Cut, commit_proxy
from tests.journeys.crashing.pause_points import PausedBatch, PausePoint, commit_paused

RUNNING, COMPLETED = 1, 3


class Way(StrEnum):
    """How central applies the batch."""

    ONE_STATEMENT = "one-statement"
    STEP_BY_STEP = "step-by-step"


@dataclass
class Case:
    """A batch that is about to be sent through the proxy, and where it is sent again."""

    way: Way
    database: Database
    proxy: CommitProxy
    first: Replica
    second: Replica
    source: Source
    batch: BatchRequest
    execution_id: int

    def cut(self, cut: Cut) -> None:
        """One statement commits by itself; its parameters hold the digest."""
        is_one_statement = self.way is Way.ONE_STATEMENT
        self.proxy.cut_at(self.batch.digest.encode() if is_one_statement else b"COMMIT;", cut)

    async def send(self) -> None:
        """The outcome is unknown: central asks for the batch again."""
        with pytest.raises(DatabaseUnavailable):
            await self.first.batches.apply(self.source.source_id, self.batch)
        assert self.proxy.has_cut.is_set()  # so it went the way whose commit the proxy waits for

    async def resend(self) -> bytes:
        return await self.second.batches.apply(self.source.source_id, self.batch)

    async def check(
        self, response: bytes, owner_connection: Connection, *, has_committed: bool
    ) -> None:
        """Applied once, whichever of the two did it; the next batch is in step."""
        assert outcomes(response) == ["applied"]
        assert await self.resend() == response
        assert await applications(owner_connection) == [(self.execution_id, RUNNING)]
        repeated = self.second.counted("central_batches_total", outcome="repeated")
        assert repeated == (2 if has_committed else 1)
        end = self.source.update(self.execution_id, status="COMPLETED")
        assert await apply_batch(self.second, self.source, self.batch.batch + 1, end) == ["applied"]
        assert await applications(owner_connection) == [
            (self.execution_id, RUNNING),
            (self.execution_id, COMPLETED),
        ]


@pytest.fixture(params=Way)
def way(request: pytest.FixtureRequest) -> Way:
    return Way(request.param)


@pytest.fixture(params=["same replica", "other replica"])
async def case(
    request: pytest.FixtureRequest, way: Way, database: Database, owner_connection: Connection
) -> AsyncIterator[Case]:
    (eid,) = await add_runs(owner_connection, 1)
    source = Source()
    async with commit_proxy(database.central_url) as proxy, replica(database) as other:
        through_proxy = replace(database, central_url=proxy.url)
        async with replica(through_proxy) as first:
            # A replica that has not applied a batch of the execution yet goes step by step.
            knowing = first if way is Way.ONE_STATEMENT else other
            for number in (1, 2):
                rename = source.update(eid, name=f"{number}")
                assert await apply_batch(knowing, source, number, rename) == ["applied"]
            await count_applications(owner_connection)
            batch = source.batch(3, source.update(eid, status="RUNNING"))
            second = first if request.param == "same replica" else other
            yield Case(way, database, proxy, first, second, source, batch, eid)


@asynccontextmanager
async def sent_and_paused(case: Case, owner_connection: Connection) -> AsyncIterator[PausedBatch]:
    """The batch is sent and its commit waits inside Postgres, without central."""
    await owner_connection.execute(PausePoint.DURING_COMMIT.sql())
    case.cut(Cut.DURING_COMMIT)
    async with commit_paused(case.database.owner_url, case.send) as paused:
        yield paused


@pytest.mark.parametrize(
    ("cut", "has_committed"), [(Cut.AFTER_COMMIT, True), (Cut.BEFORE_COMMIT, False)]
)
async def test_a_resend_after_the_outcome_is_applied_exactly_once(
    case: Case, owner_connection: Connection, cut: Cut, has_committed: bool
) -> None:
    case.cut(cut)
    await case.send()

    response = await case.resend()

    await case.check(response, owner_connection, has_committed=has_committed)


async def test_a_resend_during_the_commit_gets_the_stored_response(
    case: Case, owner_connection: Connection
) -> None:
    async with sent_and_paused(case, owner_connection) as paused:
        resending = asyncio.create_task(case.resend())
        await paused.until_waiting(2)
    response = await resending

    await case.check(response, owner_connection, has_committed=True)


async def test_a_resend_during_a_commit_that_fails_is_applied(
    case: Case, owner_connection: Connection
) -> None:
    async with sent_and_paused(case, owner_connection) as paused:
        resending = asyncio.create_task(case.resend())
        await paused.until_waiting(2)
        await paused.fail_commit(case.database.superuser_url)
    response = await resending

    await case.check(response, owner_connection, has_committed=False)
