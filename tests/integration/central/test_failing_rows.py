"""Rows that the database fails: a trigger of somebody's raises. The others are written."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from central.auth.authenticator import Writer
from central.domain.callers import User
from central.metrics import Metrics
from central.problems import DatabaseUnavailable, Unstorable
from central.settings import DatabaseSettings
from central.store.batches import Batches
from central.store.bindings import BindingCache
from central.store.database import Database
from central.store.entries import EntryStore
from central.store.leases import MAX_FAILING, Leases, RenewalAvailability
from central.store.orphans import CloseReason, ExecutionCloser
from central.store.refusals import RefusalLog
from central.store.writes import Writes
from central.wire.entries import UpdateExecution
from dev.world import WORLD
from kit.http.large_decoder import LargeDecoder
from tests import databases
from tests.integration.central.batching import (
    Connection,
    Replica,
    Source,
    add_runs,
    apply_batch,
    run,
)

TIME_S = 600.0
CREATE_TRIGGER = """
create function public.fail() returns trigger language plpgsql as $$
begin
    raise exception 'not this one' using errcode = '{sqlstate}';
end $$;
create trigger fail before update on texera_db.workflow_executions
for each row when (old.eid = {eid}) execute function public.fail();
"""


@pytest.fixture
def now() -> SimpleNamespace:
    return SimpleNamespace(s=0.0)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def entry_store(metrics: Metrics, now: SimpleNamespace) -> EntryStore:
    return EntryStore(metrics, TIME_S, clock=lambda: now.s)


@pytest.fixture
async def central(
    database: databases.Database, entry_store: EntryStore, metrics: Metrics
) -> AsyncIterator[Replica]:
    pool = Database(DatabaseSettings(database.central_url), metrics)
    refusal_log, decoder = RefusalLog(pool, metrics), LargeDecoder()
    batches = Batches(pool, entry_store, BindingCache(), refusal_log, metrics, decoder)
    yield Replica(batches, pool, metrics)
    await pool.close()


@pytest.mark.parametrize("sqlstate", ["P0001", "42501", "XX000"])
async def test_an_entry_that_fails_is_deferred_alone_and_refused_after_the_time(
    central: Replica, now: SimpleNamespace, owner_connection: Connection, sqlstate: str
) -> None:
    source = Source()
    ids = await add_runs(owner_connection, 3)
    poisoned = ids[1]
    first = [source.update(eid, status="READY") for eid in ids]
    assert set(await apply_batch(central, source, 1, *first)) == {"applied"}
    await owner_connection.execute(CREATE_TRIGGER.format(sqlstate=sqlstate, eid=poisoned))

    def entries() -> list[dict[str, object]]:
        made = [source.update(eid, status="RUNNING") for eid in ids]
        return [*made, source.update(poisoned, status="PAUSED")]

    deferred = ["applied", "deferred", "applied", "deferred"]
    assert await apply_batch(central, source, 2, *entries()) == deferred
    now.s = TIME_S - 1
    assert await apply_batch(central, source, 3, *entries()) == deferred
    now.s = TIME_S
    refused = ["applied", "unstorable", "applied", "unstorable"]
    assert await apply_batch(central, source, 4, *entries()) == refused
    assert [(await run(owner_connection, eid))["status"] for eid in ids] == [1, 0, 1]
    assert central.counted("central_database_errors_total", reason="isolated") == 4


async def test_an_entry_whose_failure_ends_in_time_is_applied(
    central: Replica, now: SimpleNamespace, owner_connection: Connection
) -> None:
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    await owner_connection.execute(CREATE_TRIGGER.format(sqlstate="P0001", eid=eid))
    end = source.update(eid, status="COMPLETED")

    assert await apply_batch(central, source, 1, end) == ["deferred"]
    await owner_connection.execute("drop trigger fail on texera_db.workflow_executions")
    now.s = TIME_S * 2
    assert await apply_batch(central, source, 2, end) == ["applied"]


async def test_a_single_call_does_not_move_the_time_of_queued_entries(
    central: Replica, entry_store: EntryStore, now: SimpleNamespace, owner_connection: Connection
) -> None:
    """The call passes the queue: its success says nothing about the entry at the queue's head."""
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    await owner_connection.execute(
        CREATE_TRIGGER.replace("old.eid", "new.status <> 0 and old.eid").format(
            sqlstate="P0001", eid=eid
        )
    )
    writes = Writes(central.database, entry_store, central.metrics)
    end = source.update(eid, status="COMPLETED")

    async def write(**changes: Any) -> None:
        user = User(WORLD.owner.user_id, WORLD.owner.role, 2**31)
        writer = Writer(user, "source-a", f"key-{now.s}-{changes}")
        entry = UpdateExecution(seq=0, execution_id=eid, made_at_ms=0, **changes)
        await writes.apply(writer, "route", repr(changes).encode(), entry)

    with pytest.raises(DatabaseUnavailable):
        await write(status="FAILED")  # starts a time of its own
    now.s = TIME_S / 2
    assert await apply_batch(central, source, 1, end) == ["deferred"]
    now.s = TIME_S
    assert await apply_batch(central, source, 2, end) == ["deferred"]
    with pytest.raises(Unstorable):
        await write(status="FAILED")
    await write(name="new")
    now.s = TIME_S * 3 / 2

    assert await apply_batch(central, source, 3, end) == ["unstorable"]


async def test_a_constraint_that_is_checked_at_the_commit_refuses_one_entry(
    central: Replica, owner_connection: Connection
) -> None:
    source = Source()
    ids = await add_runs(owner_connection, 2)
    await owner_connection.execute(
        """
        create function public.check_name() returns trigger language plpgsql as $$
        begin
            if new.name = 'bad' then raise check_violation; end if;
            return null;
        end $$;
        create constraint trigger check_name after update on texera_db.workflow_executions
        deferrable initially deferred for each row execute function public.check_name();
        """
    )
    entries = [source.update(ids[0], name="good"), source.update(ids[1], name="bad")]

    assert await apply_batch(central, source, 1, *entries) == ["applied", "value-out-of-range"]


async def test_an_orphan_whose_row_fails_does_not_keep_the_others_open(
    central: Replica, owner_connection: Connection
) -> None:
    ids = await add_runs(owner_connection, 5)
    await owner_connection.execute(CREATE_TRIGGER.format(sqlstate="P0001", eid=ids[2]))
    execution_closer = ExecutionCloser(central.metrics)
    reasons = dict.fromkeys(ids, CloseReason.LEASE_LAPSED)

    closed = await central.database.run(lambda t: execution_closer.close(t, reasons))

    assert closed == [eid for eid in ids if eid != ids[2]]
    statuses = [(await run(owner_connection, eid))["status"] for eid in ids]
    assert statuses == [4, 4, 0, 4, 4]
    assert central.counted("central_database_errors_total", reason="isolated") == 1


async def test_a_statement_that_does_not_fit_the_schema_refuses_nothing(
    central: Replica, now: SimpleNamespace, owner_connection: Connection
) -> None:
    """Every write fails until an operator acts; none may be lost meanwhile."""
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    await owner_connection.execute(
        "alter table texera_db.operator_port_executions"
        " drop constraint operator_port_executions_pkey"
    )

    for now.s in (0.0, TIME_S):
        with pytest.raises(DatabaseUnavailable):
            await apply_batch(central, source, 1, source.update(eid, status="RUNNING"))


@pytest.fixture
def leases(central: Replica) -> Leases:
    availability = RenewalAvailability(central.database, 90.0)
    return Leases(central.database, availability, central.metrics, 90.0)


async def test_a_run_whose_row_fails_does_not_stop_the_renewal_of_the_others(
    leases: Leases, owner_connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await add_runs(owner_connection, 5)
    await owner_connection.execute(CREATE_TRIGGER.format(sqlstate="P0001", eid=ids[1]))

    for _ in range(2):
        await owner_connection.execute(
            "delete from cu_metadata.leases;"
            "insert into cu_metadata.leases"
            " select execution_id, source_id, computing_unit_id, now() from cu_metadata.bindings"
        )
        assert (await leases.renew("source-a", ids)).lost == []

    query = "select count(*) from cu_metadata.leases where expires_at > now()"
    assert await owner_connection.fetchval(query) == 5
    touched = [(await run(owner_connection, eid))["last_update_time"] is not None for eid in ids]
    assert touched == [True, False, True, True, True]
    named = [r.fields["execution_id"] for r in caplog.records if "last_update_time" in r.message]  # type: ignore[attr-defined]
    assert named == [ids[1]]


async def test_renewals_of_runs_that_all_fail_take_a_bounded_number_of_statements(
    central: Replica, leases: Leases, owner_connection: Connection
) -> None:
    ids = await add_runs(owner_connection, 200)
    await owner_connection.execute(
        CREATE_TRIGGER.replace("old.eid = {eid}", "true").format(sqlstate="P0001")
    )

    await leases.renew("source-a", ids)  # makes the leases
    await leases.renew("source-a", ids)

    query = "select count(*) from cu_metadata.leases where expires_at > now()"
    assert await owner_connection.fetchval(query) == 200
    assert central.counted("central_database_errors_total", reason="isolated") == MAX_FAILING
