"""Two sidecars, two replicas and the closer on two runs, against a small model of the rules.

Batches are doubled, delayed, reordered and sent under new epochs; sources bind, which takes over
an open run and adds a binding without the status to an ended one; the closer ends runs. Whatever
happens, the outcomes and the rows are those of the model.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from central.auth_settings import LimitSettings
from central.domain.callers import User
from central.problems import BatchOutOfStep
from central.store.bindings import BindingQuota, Bindings
from central.store.orphans import ExecutionCloser
from central.store.warehouses import Warehouses
from central.wire.entries import BatchRequest
from dev.world import WORLD
from tests.databases import Template, connected, copy_of
from tests.integration.central.batching import Replica, Source, add_runs, replica

USER = User(WORLD.owner.user_id, WORLD.owner.role, expires_at=2e9)
RUNS, SOURCES = (0, 1), ("a", "b")
STATUSES = st.sampled_from([-1, 0, 1, 2, 3, 3, 4, 5, 5, 5])
WRITES = st.lists(st.tuples(st.sampled_from(RUNS), STATUSES), max_size=4)
STEPS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(SOURCES), WRITES),
    st.tuples(st.just("send"), st.sampled_from(SOURCES), WRITES),
    st.tuples(st.just("twice at once"), st.sampled_from(SOURCES), WRITES),
    st.tuples(st.just("again"), st.sampled_from(SOURCES), st.integers(0, 9)),
    st.tuples(st.just("new epoch"), st.sampled_from(SOURCES), st.none()),
    st.tuples(st.just("bind"), st.sampled_from(SOURCES), st.sampled_from(RUNS)),
    st.tuples(st.just("close"), st.just("closer"), st.sampled_from(RUNS)),
)


@dataclass
class ModelRun:
    runner: str
    status: int = 0
    ended_by: str | None = None
    bound: set[str] = field(default_factory=set)
    once_bound: set[str] = field(default_factory=set)

    def bind(self, source: str) -> None:
        if self.status < 3:
            self.runner = source
            self.bound.clear()
        self.bound.add(source)
        self.once_bound.add(source)

    def write(self, source: str, status: int) -> str:
        if source not in self.bound:
            return "binding-revoked" if source in self.once_bound else "not-bound"
        if source != self.runner:
            return "not-the-runner"
        ended = self.status >= 3
        closed = ended and self.ended_by == "closer"
        if status < 0 or (ended and status == self.status and not closed):
            return "applied"
        if ended and status < 3:
            return "late"
        if ended and not closed and (self.status, status, self.ended_by) != (5, 3, source):
            return "status-conflict"
        self.status, self.ended_by = status, source
        return "applied"


@dataclass
class ModelSource:
    source: Source
    sent: list[tuple[BatchRequest, list[str]]] = field(default_factory=list)
    """Batches of all epochs, with the outcomes each was answered first."""


class World:
    """The database, and what the model says of it."""

    def __init__(
        self, connection: "asyncpg.Connection[asyncpg.Record]", replicas: list[Replica]
    ) -> None:
        self.connection = connection
        self.replicas = replicas
        database, metrics = replicas[0].database, replicas[0].metrics
        self.bindings = Bindings(
            database,
            Warehouses(),
            ExecutionCloser(metrics),
            BindingQuota(LimitSettings(user_open_bindings=0, source_open_bindings=0), metrics),
            lease_s=90.0,
        )
        self.epochs = count(1)

    async def begin(self, example: int) -> None:
        # Rows and names of its own for each example: no need of a fresh database.
        self.names = {name: f"{name}-{example}" for name in SOURCES}
        self.eids = await add_runs(self.connection, len(RUNS), source_id=self.names["a"])
        self.runs = [ModelRun("a", bound={"a"}, once_bound={"a"}) for _ in RUNS]
        self.sources = {name: ModelSource(self.source(name)) for name in SOURCES}

    def source(self, name: str) -> Source:
        return Source(self.names[name], f"{next(self.epochs):032x}")

    async def step(self, step: str, name: str, detail: Any) -> None:
        match step:
            case "send" | "twice at once":
                await self.send(name, detail, twice=step != "send")
            case "again":
                await self.again(name, detail)
            case "new epoch":
                self.sources[name].source = self.source(name)
            case "bind":
                await self.bind(name, detail)
            case "close":
                await self.close(detail)
        rows = await self.connection.fetch(
            "select status from texera_db.workflow_executions where eid = any ($1) order by eid",
            self.eids,
        )
        assert [row["status"] for row in rows] == [run.status for run in self.runs]

    async def send(self, name: str, writes: list[tuple[int, int]], *, twice: bool) -> None:
        model = self.sources[name]
        number = 1 + sum(batch.epoch == model.source.epoch for batch, _ in model.sent)
        entries = [model.source.update(self.eids[run], status=status) for run, status in writes]
        batch = model.source.batch(number, *entries)
        expected = [self.runs[run].write(name, status) for run, status in writes]
        model.sent.append((batch, expected))

        deliveries = [r.batches.apply(self.names[name], batch) for r in self.replicas[: 1 + twice]]
        for response in await asyncio.gather(*deliveries):
            assert outcomes(response) == expected

    async def again(self, name: str, steps_back: int) -> None:
        """A duplicate that was delayed on its way, at the other replica."""
        sent = self.sources[name].sent
        if not sent:
            return
        batch, expected = sent[-1 - steps_back % len(sent)]
        last = max(other.batch for other, _ in sent if other.epoch == batch.epoch)
        delivery = self.replicas[1].batches.apply(self.names[name], batch)
        if batch.batch == last:
            assert outcomes(await delivery) == expected
        else:
            with pytest.raises(BatchOutOfStep):
                await delivery

    async def bind(self, name: str, run: int) -> None:
        """As the service binds; nothing here renews, so that every lease of another has lapsed."""
        self.runs[run].bind(name)
        bindings, source_id = self.bindings, self.names[name]
        await self.connection.execute("update cu_metadata.leases set expires_at = now()")
        await self.replicas[0].database.run(
            lambda transaction: bindings.bind(transaction, USER, source_id, self.eids[run])
        )

    async def close(self, run: int) -> None:
        model = self.runs[run]
        if model.status >= 3:
            return
        model.status, model.ended_by = 4, "closer"
        async with self.connection.transaction():
            await self.connection.execute(
                "update texera_db.workflow_executions set status = 4 where eid = $1",
                self.eids[run],
            )
            await self.connection.execute(
                "insert into cu_metadata.terminal_statuses (execution_id, status, provisional)"
                " values ($1, 4, true)",
                self.eids[run],
            )


def outcomes(response: bytes) -> list[str]:
    return [
        o.get("problem", {}).get("type", o["outcome"]) for o in json.loads(response)["outcomes"]
    ]


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def world(runner: asyncio.Runner, template: Template) -> Iterator[World]:
    stack = AsyncExitStack()

    async def open_world() -> World:
        database = await stack.enter_async_context(copy_of(template))
        connection = await stack.enter_async_context(connected(database.owner_url))
        replicas = [await stack.enter_async_context(replica(database)) for _ in range(2)]
        return World(connection, replicas)

    yield runner.run(open_world())
    runner.run(stack.aclose())


EXAMPLES = count()


@settings(
    max_examples=150,
    deadline=None,  # a batch waits for a real database
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # `begin` starts each anew
)
@example(steps=[("send", "a", [(0, 5)]), ("bind", "b", 0), ("send", "b", [(0, 3)])])
@example(
    steps=[
        ("close", "closer", 0),
        ("bind", "b", 0),
        ("send", "b", [(0, 3)]),
        ("send", "a", [(0, 3)]),
    ]
)
@given(steps=st.lists(STEPS, max_size=20))
def test_outcomes_and_rows_are_those_of_the_model(
    world: World, runner: asyncio.Runner, steps: list[tuple[str, str, Any]]
) -> None:
    async def play() -> None:
        await world.begin(next(EXAMPLES))
        for step in steps:
            await world.step(*step)

    runner.run(play())
