"""A withdrawal and late copies of the batch that it withdraws: one of them gets the number."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import msgspec
import pytest

from central.problems import BatchOutOfStep
from central.wire.entries import BatchRequest
from tests.databases import Database
from tests.integration.central.batching import (
    Connection,
    Replica,
    Source,
    add_runs,
    applications,
    apply_batch,
    bind,
    count_applications,
    outcomes,
    replica,
)

FIRST, LATER = 1, 2
"""A number without a cursor, and one that the optimistic statement may apply."""


@pytest.fixture
async def central(database: Database) -> AsyncIterator[Replica]:
    async with replica(database) as central:
        yield central


@pytest.fixture
async def other(database: Database) -> AsyncIterator[Replica]:
    async with replica(database) as other:
        yield other


def withdrawal_of(source: Source, batch: BatchRequest) -> BatchRequest:
    return msgspec.structs.replace(source.batch(batch.batch), withdraws=batch.digest)


async def send(central: Replica, source: Source, batch: BatchRequest) -> list[str] | None:
    """The outcomes; None if the batch is out of step."""
    try:
        return outcomes(await central.batches.apply(source.source_id, batch))
    except BatchOutOfStep:
        return None


async def prepared(
    central: Replica, connection: Connection, number: int
) -> tuple[Source, list[int], BatchRequest]:
    """A source whose next batch is `number`, its runs, and that batch, which ends them."""
    ids = await add_runs(connection, 3)
    source = Source()
    if number == LATER:
        assert await apply_batch(
            central, source, FIRST, *(source.update(eid, name="n") for eid in ids)
        ) == ["applied"] * len(ids)
    await count_applications(connection)
    batch = source.batch(number, *(source.update(eid, status="COMPLETED") for eid in ids))
    return source, ids, batch


COPY, RESEND, WITHDRAWAL, WITHDRAWAL_AGAIN = "copy", "resend", "withdrawal", "withdrawal again"


@pytest.mark.parametrize("number", [FIRST, LATER])
@pytest.mark.parametrize(
    "order",
    [
        order
        for order in itertools.permutations([COPY, RESEND, WITHDRAWAL, WITHDRAWAL_AGAIN])
        if order.index(WITHDRAWAL) < order.index(WITHDRAWAL_AGAIN)
        and order.index(COPY) < order.index(RESEND)
    ],
    ids=" then ".join,
)
async def test_in_any_order_the_first_gets_the_number(
    number: int,
    order: tuple[str, ...],
    central: Replica,
    other: Replica,
    owner_connection: Connection,
) -> None:
    source, ids, batch = await prepared(central, owner_connection, number)
    withdrawal = withdrawal_of(source, batch)

    responses = {
        name: await send(
            central if position % 2 else other,
            source,
            batch if name in {COPY, RESEND} else withdrawal,
        )
        for position, name in enumerate(order)
    }

    applied = sorted(await applications(owner_connection))
    if order[0] == COPY:
        assert set(map(str, responses.values())) == {str(["applied"] * len(ids))}
        assert applied == [(eid, 3) for eid in ids]
    else:
        assert responses == {COPY: None, RESEND: None, WITHDRAWAL: [], WITHDRAWAL_AGAIN: []}
        assert applied == []
        smaller = source.batch(number + 1, source.update(ids[0], status="COMPLETED"))
        assert await send(other, source, smaller) == ["applied"]
        assert await applications(owner_connection) == [(ids[0], 3)]


@pytest.mark.parametrize("number", [FIRST, LATER])
@pytest.mark.parametrize("attempt", range(4))
async def test_at_the_same_time_at_two_replicas_all_agree(
    attempt: int, number: int, central: Replica, other: Replica, owner_connection: Connection
) -> None:
    source, ids, batch = await prepared(central, owner_connection, number)
    withdrawal = withdrawal_of(source, batch)
    calls = [(c, b) for c in (central, other) for b in (batch, withdrawal)] * 2
    calls = calls[attempt:] + calls[:attempt]

    responses = await asyncio.gather(*(send(c, source, b) for c, b in calls))

    by_kind = [
        {
            str(response)
            for (_, sent), response in zip(calls, responses, strict=True)
            if sent is kind
        }
        for kind in (batch, withdrawal)
    ]
    applied = sorted(await applications(owner_connection))
    all_applied = str(["applied"] * len(ids))
    assert (by_kind, applied) in (
        ([{all_applied}, {all_applied}], [(eid, 3) for eid in ids]),
        ([{"None"}, {"[]"}], []),
    )


async def test_a_withdrawal_of_another_batch_than_the_last_is_out_of_step(
    central: Replica, owner_connection: Connection
) -> None:
    source, _, batch = await prepared(central, owner_connection, LATER)
    await central.batches.apply(source.source_id, batch)
    never_sent = source.batch(LATER, source.update(1, name="another"))
    too_late = source.batch(FIRST, source.update(1, name="another"))
    too_early = source.batch(LATER + 2)

    for withdrawn in (never_sent, too_late, too_early):
        assert await send(central, source, withdrawal_of(source, withdrawn)) is None

    assert await send(central, source, batch) == ["applied"] * 3


async def test_a_batch_of_an_unknown_source_is_withdrawn_although_it_was_answered(
    central: Replica, owner_connection: Connection
) -> None:
    """Its response is not stored, and it applied nothing."""
    (eid,) = await add_runs(owner_connection, 1, source_id=None)
    source = Source()
    batch = source.batch(FIRST, source.update(eid, status="COMPLETED"))
    assert await send(central, source, batch) == ["not-bound"]
    await bind(owner_connection, source.source_id, [eid])

    first = await send(central, source, withdrawal_of(source, batch))
    again = await send(central, source, withdrawal_of(source, batch))
    late_copy = await send(central, source, batch)
    next_one = source.batch(FIRST + 1, source.update(eid, status="COMPLETED"))

    assert (first, again, late_copy) == ([], [], None)
    assert await send(central, source, next_one) == ["applied"]
    assert central.counted("central_batches_total", outcome="withdrawn") == 2
