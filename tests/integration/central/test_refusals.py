"""The log of refused writes: whole calls and batch entries, bounded per source."""

from typing import Any

import pytest

from central.middleware import REFUSAL_LOG
from central.problems import DatabaseUnavailable
from central.store.batches import MAX_EPOCHS_PER_SOURCE
from central.store.refusals import (
    PER_SOURCE_AND_HOUR,
    PER_USER_AND_HOUR,
    UNKNOWN_PER_HOUR,
    ListedRefusal,
    RefusalFilter,
)
from dev.world import WORLD
from tests.integration.central.central_fixtures import Sidecar

OWNER, READER, STRANGER = (u.user_id for u in (WORLD.owner, WORLD.reader, WORLD.stranger))


async def recorded(connection: Any) -> list[tuple[Any, ...]]:
    rows = await connection.fetch(
        "select source_id, user_id, execution_id, op, slug from cu_metadata.refusals order by id"
    )
    return [tuple(row) for row in rows]


async def test_whole_calls_are_recorded_by_route_source_and_user(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    execution_id = (await sidecar.create()).body["execution_id"]
    run, other = f"/v1/executions/{execution_id}", sidecar.another()
    for caller, method, target, body, user in (
        (sidecar, "PATCH", run, {"status": "KILLED"}, WORLD.reader),
        (sidecar, "PATCH", run, {"status": "KILLED"}, WORLD.stranger),
        (sidecar, "PATCH", run, {"runtime_stats_uri": "vfs:///x"}, WORLD.owner),
        (other, "PATCH", run, {"status": "KILLED"}, WORLD.owner),
        (other, "POST", f"{run}/binding", {}, WORLD.owner),
        (other, "POST", "/v1/executions", None, WORLD.stranger),
    ):
        if body is None:
            assert (await caller.create(user)).status == 404
        else:
            assert (await caller.call(method, target, body, user=user)).status >= 400

    mine, others = sidecar.source_id, other.source_id
    patch, bind = (
        "PATCH /v1/executions/{execution_id}",
        "POST /v1/executions/{execution_id}/binding",
    )
    assert await recorded(owner_connection) == [
        (mine, READER, execution_id, patch, "not-the-executions-user"),
        (mine, STRANGER, execution_id, patch, "execution-not-found"),
        (mine, OWNER, execution_id, patch, "uri-mismatch"),
        (others, OWNER, execution_id, patch, "not-bound"),
        (others, OWNER, execution_id, bind, "bound-elsewhere"),
        (others, STRANGER, None, "POST /v1/executions", "workflow-not-found"),
    ]


async def test_a_refusal_that_cannot_be_recorded_reaches_its_caller(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    execution_id = (await sidecar.create()).body["execution_id"]
    run = f"/v1/executions/{execution_id}"
    await owner_connection.execute(
        """
        create function public.fail() returns trigger language plpgsql as $$
        begin
            raise exception 'not this one';
        end $$;
        create trigger fail before insert on cu_metadata.refusals
        for each row execute function public.fail();
        """
    )
    stats = {"execution_id": execution_id, "op": "update_execution"}
    mismatch = stats | {"runtime_stats_uri": "vfs:///x"}

    called = await sidecar.call("PATCH", run, {"status": "KILLED"}, user=WORLD.reader)
    delivered = await sidecar.deliver(stats | {"name": "x"}, mismatch)

    assert called.outcome == (403, "not-the-executions-user")
    assert delivered.outcomes == ["applied", "uri-mismatch"]
    registry = sidecar.metrics.registry
    assert registry.get_sample_value("central_unrecorded_refusals_total") == 2


async def test_late_malformed_and_read_calls_are_not_recorded(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    execution_id = (await sidecar.create()).body["execution_id"]
    run = f"/v1/executions/{execution_id}"
    await sidecar.call("PATCH", run, {"status": "COMPLETED"}, user=WORLD.owner)

    late = await sidecar.call("PATCH", run, {"status": "RUNNING"}, user=WORLD.owner)
    malformed = await sidecar.call("PATCH", run, {"status": "DONE"}, user=WORLD.owner)
    hidden = await sidecar.get(run, WORLD.stranger)
    unsigned = await sidecar.call("PATCH", run, {}, user=WORLD.owner, is_signed=False)

    assert [r.status for r in (late, malformed, hidden, unsigned)] == [409, 400, 404, 401]
    assert await recorded(owner_connection) == []


async def test_rows_are_limited_to_100_rows_per_source_and_hour(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    execution_id = (await sidecar.create()).body["execution_id"]
    run, other = f"/v1/executions/{execution_id}", sidecar.another()

    for _ in range(PER_SOURCE_AND_HOUR + 20):
        await sidecar.call("DELETE", f"{run}/uris", user=WORLD.reader)
    await other.call("DELETE", f"{run}/uris", user=WORLD.reader)

    sources = [row[0] for row in await recorded(owner_connection)]
    assert sources.count(sidecar.source_id) == PER_SOURCE_AND_HOUR
    assert sources.count(other.source_id) == 1


async def test_unbound_sources_share_one_limit(sidecar: Sidecar, owner_connection: Any) -> None:
    """Keys cost nothing to make; what each leaves behind has to be bounded all the same."""
    known = (await sidecar.create()).body["execution_id"]
    entries = [{"execution_id": known, "op": "update_execution", "name": "x"}] * 100

    for _ in range(UNKNOWN_PER_HOUR // 100 + 3):
        assert (await sidecar.another().deliver(*entries)).outcomes == ["not-bound"] * 100

    rows = await recorded(owner_connection)
    assert len(rows) == UNKNOWN_PER_HOUR
    assert {row[1] for row in rows} == {None}
    mine = {"execution_id": known, "op": "update_execution", "runtime_stats_uri": "vfs:///x"}
    assert (await sidecar.deliver(mine)).outcomes == ["uri-mismatch"]
    assert len(await recorded(owner_connection)) == UNKNOWN_PER_HOUR + 1


async def counted(sidecar: Sidecar) -> list[tuple[int | None, str, int]]:
    """What is beyond the caps: user, slug and number."""
    refusal_log = sidecar.client.app[REFUSAL_LOG]
    await refusal_log.store_counts()
    await refusal_log.store_counts()  # adds nothing
    listed: list[ListedRefusal] = await refusal_log.find(RefusalFilter(), 100_000)
    return sorted((r.user_id or 0, r.slug, r.refused_count) for r in listed if r.source_id is None)


async def test_refusals_beyond_the_cap_are_counted(sidecar: Sidecar, owner_connection: Any) -> None:
    """Whoever fills the log first cannot hide what comes after."""
    excess = 7
    for _ in range(PER_SOURCE_AND_HOUR + excess):
        reply = await sidecar.create(WORLD.stranger)
        assert reply.outcome == (404, "workflow-not-found")
    run = (await sidecar.create()).body["execution_id"]
    entries = [{"execution_id": run, "op": "update_execution", "runtime_stats_uri": "vfs:///x"}] * 3
    assert (await sidecar.deliver(*entries)).outcomes == ["uri-mismatch"] * 3

    assert len(await recorded(owner_connection)) == PER_SOURCE_AND_HOUR
    assert await counted(sidecar) == [
        (OWNER, "uri-mismatch", 3),
        (STRANGER, "workflow-not-found", excess),
    ]


async def test_one_users_keys_share_the_limit_of_the_user(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    """Keys cost nothing to make: with more of them a user adds no more rows."""
    run = (await sidecar.create()).body["execution_id"]
    entry = {"execution_id": run, "op": "update_execution", "runtime_stats_uri": "vfs:///x"}
    await owner_connection.execute(
        "insert into cu_metadata.refusals (source_id, user_id, op, slug, detail)"
        " select 'source-' || n, $1, 'x', 'x', 'x' from generate_series(1, $2) n",
        OWNER,
        PER_USER_AND_HOUR - 2,
    )

    assert (await sidecar.deliver(*[entry] * 5)).outcomes == ["uri-mismatch"] * 5
    other = await sidecar.another().create(WORLD.stranger)

    assert other.outcome == (404, "workflow-not-found")
    rows = await recorded(owner_connection)
    assert [row[1] for row in rows].count(OWNER) == PER_USER_AND_HOUR
    assert [row[1] for row in rows].count(STRANGER) == 1
    assert await counted(sidecar) == [(OWNER, "uri-mismatch", 3)]


async def test_counts_that_cannot_be_stored_are_kept(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    refusal_log = sidecar.client.app[REFUSAL_LOG]
    await owner_connection.execute("alter table cu_metadata.refusal_counts rename to gone")
    for _ in range(PER_SOURCE_AND_HOUR + 2):
        await sidecar.create(WORLD.stranger)
    with pytest.raises(DatabaseUnavailable):
        await refusal_log.store_counts()
    await owner_connection.execute("alter table cu_metadata.gone rename to refusal_counts")

    assert await counted(sidecar) == [(STRANGER, "workflow-not-found", 2)]


async def test_unknown_source_leaves_bounded_rows(sidecar: Sidecar, owner_connection: Any) -> None:
    unbound = sidecar.another()
    entries = [{"execution_id": n, "op": "update_execution", "name": "x"} for n in range(1, 50)]

    first = await unbound.deliver(*entries, epoch="a" * 32)
    again = await unbound.deliver(*entries, epoch="a" * 32)
    for _ in range(30):
        await unbound.deliver(*entries)

    assert first.body == again.body
    cursors = await owner_connection.fetch(
        "select response from cu_metadata.cursors where source_id = $1", unbound.source_id
    )
    assert [bytes(row["response"]) for row in cursors] == [b""] * MAX_EPOCHS_PER_SOURCE


@pytest.mark.parametrize("is_bound_to_something", [False, True])
async def test_a_source_learns_nothing_of_executions_it_is_not_bound_to(
    sidecar: Sidecar, is_bound_to_something: bool
) -> None:
    hidden = (await sidecar.create()).body["execution_id"]
    prober = sidecar.another()
    if is_bound_to_something:
        await prober.create(WORLD.writer)
    entries = [
        {"execution_id": execution_id, "op": "update_execution", "name": "x"}
        for execution_id in (hidden, WORLD.completed_execution_id, 999_999)
    ]

    probed = await prober.deliver(*entries)

    responses = {
        outcome["problem"]["detail"].replace(str(entry["execution_id"]), "N")
        for entry, outcome in zip(entries, probed.body["outcomes"], strict=True)
    }
    assert probed.outcomes == ["not-bound"] * 3
    assert len(responses) == 1
