"""Leases, boots, ends, outages and the closers of two replicas, against a model of the rules.

Time is the model's: it passes by making every stored timestamp older, in steps so coarse that the
time a test really takes makes no difference. A leap of the database's clock, which is all that a
skew between clocks can be to a protocol that compares no two of them, is time in which nobody
served, or time that runs backwards. No sidecar's clock occurs: there is none in the protocol.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from central.problems import BootSuperseded, ComputingUnitTerminated
from central.wire.leases import LostReason
from tests.databases import Template, connected, copy_of
from tests.integration.central import batching, lease_fixtures
from tests.integration.central.batching import Source
from tests.integration.central.lease_database import Database
from tests.integration.central.lease_fixtures import LEASE_S, advance, serve_for
from tests.integration.central.lease_model import FAILED, SIDECARS, UNITS, Rules, Run

STEP_S = 15.0
RESET = """
truncate cu_metadata.leases, cu_metadata.boots, cu_metadata.renewal_availability,
    cu_metadata.bindings,
    cu_metadata.terminal_statuses, cu_metadata.cursors;
delete from texera_db.workflow_executions where eid > 1000;
update texera_db.workflow_computing_unit set terminate_time = null;
drop table if exists public.closed;
create table public.closed (eid int);
"""
COUNT_CLOSINGS = """
create function public.note_closing() returns trigger language plpgsql security definer as $$
begin insert into public.closed values (new.eid); return new; end $$;
create trigger note_closing after update on texera_db.workflow_executions
for each row when (new.status = 4 and old.status not in (3, 4, 5))
execute function public.note_closing();
"""


class Fleet(RuleBasedStateMachine):
    """What the rules say, beside what the database does."""

    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        super().__init__()
        self.runner = runner
        self.database = database
        self.model = Rules()
        self.boots: dict[int, list[str]] = {201: [], 202: []}
        self.responses: dict[tuple[int, str], list[int]] = {}
        self.sources = {name: Source(name, name * 8) for name in SIDECARS}
        self.batch_numbers = {name: count(1) for name in SIDECARS}
        self.boot_numbers = count(1)

    def run_real(self, work: Any) -> Any:
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        self.run_real(self.database.connection.execute(RESET))

    # What sidecars do

    @rule(sidecar=st.sampled_from(SIDECARS), stale=st.booleans())
    def create(self, sidecar: str, stale: bool) -> None:
        unit = UNITS[sidecar]
        boots = self.boots[unit]
        boot = None if not boots else boots[0] if stale else boots[-1]
        if unit in self.model.terminated_at:
            with pytest.raises(ComputingUnitTerminated):
                self.run_real(self.database.create(sidecar, boot))
        elif boots and boot != boots[-1]:
            with pytest.raises(BootSuperseded):
                self.run_real(self.database.create(sidecar, boot))
        else:
            eid = self.run_real(self.database.create(sidecar, boot))
            self.model.runs[eid] = Run(sidecar, boot)
            self.model.leases[eid] = self.model.now_s + LEASE_S

    @rule(sidecar=st.sampled_from(SIDECARS), replica=st.integers(0, 1))
    def renew(self, sidecar: str, replica: int) -> None:
        own = {eid: run for eid, run in self.model.runs.items() if run.sidecar == sidecar}

        lost = self.run_real(self.database.replicas[replica].renew(sidecar, sorted(own)))

        assert lost == {
            eid: LostReason.CLOSED if run.is_closed else LostReason.ENDED
            for eid, run in own.items()
            if not run.is_open
        }
        self.model.renewed(own)

    @rule(sidecar=st.sampled_from(SIDECARS), status=st.sampled_from([-1, 1, 2, 3, 4, 5]))
    @precondition(lambda self: self.model.runs)
    def write(self, sidecar: str, status: int) -> None:
        """To the sidecar's newest run, whatever has become of it."""
        own = [eid for eid, run in self.model.runs.items() if run.sidecar == sidecar]
        if not own:
            return
        source, number = self.sources[sidecar], next(self.batch_numbers[sidecar])
        entry = source.update(own[-1], status=status)

        outcomes = self.run_real(batching.apply_batch(self.database.batches, source, number, entry))

        run = self.model.runs[own[-1]]
        before = (run.status, run.ended_by)
        was_open = run.is_open
        assert outcomes == [run.write(sidecar, status)]
        if not run.is_open and (run.status, run.ended_by) != before:
            self.model.leases.pop(own[-1], None)
            self.model.closing_count += was_open and run.status == FAILED

    @rule(sidecar=st.sampled_from(SIDECARS), which=st.sampled_from(["new", "new", "same", "old"]))
    def boot(self, sidecar: str, which: str) -> None:
        unit = UNITS[sidecar]
        boots = self.boots[unit]
        if which == "old" and len(boots) > 1:
            with pytest.raises(BootSuperseded):
                self.run_real(self.database.boot(sidecar, boots[0]))
            return
        boot = boots[-1] if which == "same" and boots else f"boot-{next(self.boot_numbers)}"

        closed = self.run_real(self.database.boot(sidecar, boot))

        if boot not in boots:
            boots.append(boot)
            ended = [
                eid
                for eid, run in self.model.runs.items()
                if run.is_open and UNITS[run.sidecar] == unit and eid in self.model.leases
            ]
            self.model.close(dict.fromkeys(ended, "superseded-boot"))
            self.responses[unit, boot] = ended
        assert closed == self.responses[unit, boot]

    # What happens to them

    @rule(seconds=st.sampled_from([STEP_S, STEP_S, 2 * STEP_S, LEASE_S, LEASE_S + STEP_S]))
    def time_passes(self, seconds: float) -> None:
        """Central serves all the while."""
        self.run_real(serve_for(self.database.connection, self.database.replicas[0], seconds))
        self.model.heartbeat()
        self.model.now_s += seconds
        self.model.heartbeat_at = self.model.now_s

    @rule(seconds=st.sampled_from([STEP_S, 3 * STEP_S, 2 * LEASE_S, -3 * STEP_S, -2 * LEASE_S]))
    def nobody_serves(self, seconds: float) -> None:
        """Central or its database is down, or the database's clock leaps."""
        self.run_real(advance(self.database.connection, seconds))
        self.model.now_s += seconds

    @rule(replica=st.integers(0, 1), sidecar=st.sampled_from(SIDECARS))
    def a_renewal_fails(self, replica: int, sidecar: str) -> None:
        """Which says nothing if the sidecar has nothing to renew."""
        self.database.replicas[replica].leases.availability.record_failure(sidecar)
        self.run_real(self.database.replicas[replica].closer.heartbeat())
        is_bound = any(run.sidecar == sidecar for run in self.model.runs.values())
        self.model.heartbeat(is_broken=is_bound)

    @rule(unit=st.sampled_from([201, 202]))
    def terminate(self, unit: int) -> None:
        if unit not in self.model.terminated_at:
            self.model.terminated_at[unit] = self.model.now_s
            self.run_real(
                self.database.connection.execute(
                    "update texera_db.workflow_computing_unit"
                    " set terminate_time = now() at time zone 'utc' where cuid = $1",
                    unit,
                )
            )

    @rule()
    @precondition(lambda self: self.model.runs)
    def somebody_ends_a_run(self) -> None:
        """Texera's dashboard, by SQL of its own: the lease knows nothing of it."""
        eid, run = list(self.model.runs.items())[-1]
        if run.is_open:
            run.status, run.ended_by = 5, "somebody"
            self.run_real(
                self.database.connection.execute(
                    "update texera_db.workflow_executions set status = 5 where eid = $1", eid
                )
            )

    # The closers

    @rule(replicas=st.sampled_from([[0], [1], [0, 1]]))
    def close_orphans(self, replicas: list[int]) -> None:
        async def passes() -> list[int]:
            closers = [self.database.replicas[index] for index in replicas]
            return await asyncio.gather(*(closer.run_once() for closer in closers))

        counts = self.run_real(passes())

        self.model.heartbeat()
        orphans = self.model.orphans()
        self.model.close(orphans)
        self.model.drop_ended_leases()
        # Of two at once one may find the other at it, after it did a part; nothing is done twice.
        assert sum(counts) == len(orphans)

    @rule(sidecar=st.sampled_from(SIDECARS))
    def close_orphans_while_a_sidecar_returns(self, sidecar: str) -> None:
        """Each of its lapsed runs is saved or closed, as it happens; no other is touched."""
        own = {eid: run for eid, run in self.model.runs.items() if run.sidecar == sidecar}

        async def race() -> dict[int, LostReason]:
            _, lost = await asyncio.gather(
                self.database.replicas[0].run_once(),
                self.database.replicas[1].renew(sidecar, sorted(own)),
            )
            return lost

        self.run_real(race())
        # The closer leaves a lease that a renewal holds locked to its next pass.
        self.run_real(
            self.database.connection.execute(
                """
                delete from cu_metadata.leases lease
                using texera_db.workflow_executions execution
                where eid = execution_id and status in (3, 4, 5) and expires_at <= now()
                """
            )
        )

        self.model.heartbeat()
        allowed = self.model.orphans()
        alone = {eid: reason for eid, reason in allowed.items() if eid not in own}
        statuses = self.run_real(
            self.database.connection.fetch(
                "select eid, status from texera_db.workflow_executions where eid = any ($1)",
                sorted(self.model.runs),
            )
        )
        closed = {
            row["eid"]: allowed[row["eid"]]
            for row in statuses
            if row["status"] == FAILED and self.model.runs[row["eid"]].is_open
        }
        if len(self.model.unheard()) <= self.model.limit():
            # With fewer silent ones the guard may let go in the middle; it never gets stricter.
            assert alone.keys() <= closed.keys()
        left_alone = {eid: run for eid, run in own.items() if eid not in closed}
        self.model.close(closed)
        self.model.drop_ended_leases()
        self.model.renewed(left_alone)

    @invariant()
    def rows_are_those_of_the_model(self) -> None:
        rows = self.run_real(
            self.database.connection.fetch(
                """
                select e.eid, e.status, t.reason, l.execution_id is not null as is_leased
                from texera_db.workflow_executions e
                left join cu_metadata.terminal_statuses t
                    on t.execution_id = e.eid and t.provisional
                left join cu_metadata.leases l on l.execution_id = e.eid
                where e.eid > 1000
                """
            )
        )
        assert {row["eid"]: (row["status"], row["reason"], row["is_leased"]) for row in rows} == {
            eid: (run.status, run.ended_by if run.is_closed else None, eid in self.model.leases)
            for eid, run in self.model.runs.items()
        }
        closings = self.run_real(
            self.database.connection.fetchval("select count(*) from public.closed")
        )
        assert closings == self.model.closing_count


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def real(runner: asyncio.Runner, template: Template) -> Iterator[Database]:
    stack = AsyncExitStack()

    async def open_database() -> Database:
        database = await stack.enter_async_context(copy_of(template))
        connection = await stack.enter_async_context(connected(database.owner_url))
        await connection.execute(RESET + COUNT_CLOSINGS)
        replicas = [
            await stack.enter_async_context(lease_fixtures.replica(database)) for _ in range(2)
        ]
        batches = await stack.enter_async_context(batching.replica(database))
        return Database(connection, replicas, batches)

    yield runner.run(open_database())
    runner.run(stack.aclose())


def test_rows_match_the_model(runner: asyncio.Runner, real: Database) -> None:
    run_state_machine_as_test(
        lambda: Fleet(runner, real),  # type: ignore[arg-type] # any callable will do
        settings=settings(
            max_examples=60,
            stateful_step_count=25,
            deadline=None,  # each step waits for a real database
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
