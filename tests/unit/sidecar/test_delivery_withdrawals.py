"""Batches that are withdrawn: what is too large is cut anew, what an operator gives up ends."""

from collections.abc import Callable

import pytest

from sidecar.problems import CentralUnavailable, SpoolUnavailable, UpstreamProblem
from sidecar.spool.entry import Batch, Outcome, Priority, WriteState
from sidecar.spool.inspect import skip_write
from sidecar.upstream.resilience import BatchByteLimit
from tests.unit.sidecar.delivery_fixtures import (
    PROXY_413,
    UNREACHABLE,
    DeliveryHarness,
    applied,
    harness_on,
    refused,
    relayed,
)
from tests.unit.sidecar.spool_fixtures import (
    EID,
    OTHER_EID,
    Spools,
    cut,
    numbers,
    settle,
    state_of,
    update,
)

OUT_OF_STEP = relayed("batch-out-of-step", 409, last_batch=0)


def was_applied(batch: Batch) -> list[Outcome]:
    """Central had applied the withdrawn batch, and its response was lost."""
    assert batch.is_withdrawn
    return [Outcome(entry.seq, "applied") for entry in batch.entries]


def proxy(max_bytes: int, refusal: Exception = PROXY_413) -> Callable[[Batch], list[Outcome]]:
    def respond(batch: Batch) -> list[Outcome]:
        size = sum(len(entry.payload) for entry in batch.entries)
        if not batch.is_withdrawn and size > max_bytes:
            raise refusal
        return applied(batch)

    return respond


def log(harness: DeliveryHarness) -> list[tuple[int, list[int], bool]]:
    """What was sent: number, members, whether it was withdrawn."""
    return [
        (batch.number, [entry.seq for entry in batch.entries], batch.is_withdrawn)
        for batch in harness.central.batches
    ]


@pytest.mark.parametrize("refusal", [PROXY_413, relayed("body-too-large", 413)])
async def test_a_batch_too_large_for_a_proxy_is_withdrawn_and_cut_anew_under_the_next_number(
    harness: DeliveryHarness, refusal: CentralUnavailable | UpstreamProblem
) -> None:
    seqs = [await harness.spool.append(update(name="n" * 1000)) for _ in range(16)]
    harness.central.script = [proxy(5_000, refusal)] * 100

    await harness.deliver_all()

    sent = harness.central.batches
    assert [(b.number, len(b.entries), b.is_withdrawn) for b in sent[:5]] == [
        (1, 16, False),
        (1, 16, True),
        (2, 8, False),
        (2, 8, True),
        (3, 4, False),
    ]
    assert {batch.epoch for batch in sent} == {sent[0].epoch}
    digests = {(batch.number, batch.digest) for batch in sent}
    assert len(digests) == len({number for number, _ in digests})  # one digest of each number
    refused_batches = [batch for batch in sent if batch.is_withdrawn]
    assert len(refused_batches) <= 3  # later batches stay small
    delivered = [b for b in sent if b.number not in {batch.number for batch in refused_batches}]
    assert [entry.seq for batch in delivered for entry in batch.entries] == seqs
    assert harness.count("sidecar_batches_total", outcome="too-large") == len(refused_batches)
    assert harness.count("sidecar_batches_total", outcome="withdrawn") == len(refused_batches)
    assert harness.count("sidecar_batches_total", outcome="delivered") == len(delivered)


TIMED_OUT = CentralUnavailable("no response in time", retry_after_s=1, timed_out=True)


@pytest.mark.parametrize("failure", [TIMED_OUT, relayed("body-too-slow", 408)])
async def test_a_batch_too_slow_for_the_link_is_withdrawn_and_cut_anew_after_three_sends(
    harness: DeliveryHarness, failure: CentralUnavailable | UpstreamProblem
) -> None:
    seqs = [await harness.spool.append(update(name="n" * 10_000)) for _ in range(16)]
    harness.central.script = [proxy(100_000, failure)] * 100

    await harness.deliver_all()

    sent = harness.central.batches
    assert [(b.number, len(b.entries), b.is_withdrawn) for b in sent[:5]] == [
        *[(1, 16, False)] * 3,
        (1, 16, True),
        (2, 8, False),
    ]
    delivered = [batch for batch in sent if batch.number > 1]
    assert [entry.seq for batch in delivered for entry in batch.entries] == seqs


async def test_a_small_batch_is_not_cut_anew_while_central_hangs(harness: DeliveryHarness) -> None:
    for _ in range(2):
        await harness.spool.append(update(name="n"))
    harness.central.script = [TIMED_OUT] * 8

    await harness.deliver_all()

    assert {(b.number, len(b.entries), b.is_withdrawn) for b in harness.central.batches} == {
        (1, 2, False)
    }


async def test_a_batch_that_had_been_applied_is_settled_by_its_withdrawal(
    harness: DeliveryHarness,
) -> None:
    seqs = [await harness.spool.append(update(name="n")) for _ in range(3)]
    harness.central.script = [UNREACHABLE, PROXY_413, was_applied]

    await harness.deliver_all()

    assert log(harness) == [(1, seqs, False), (1, seqs, False), (1, seqs, True)]
    assert [await state_of(harness.spool, seq) for seq in seqs] == [WriteState.COMMITTED] * 3
    assert harness.spool.epochs_started == 0


async def test_a_withdrawal_is_repeated_until_it_is_answered(
    harness: DeliveryHarness, spools: Spools
) -> None:
    """Also by the next start: the batch itself is not sent any more."""
    seqs = [await harness.spool.append(update(name="n")) for _ in range(2)]
    harness.central.script = [PROXY_413, UNREACHABLE, RuntimeError("killed")]
    with pytest.raises(RuntimeError, match="killed"):
        await harness.deliver_all()
    assert log(harness)[1:] == [(1, seqs, True)] * 2

    again = harness_on(spools, await spools.open())
    await again.deliver_all()

    assert log(again)[0] == (1, seqs, True)
    assert {number for number, *_ in log(again)[1:]} == {2}
    assert again.listener.settled == set(seqs)


async def test_a_withdrawal_whose_settling_was_lost_is_repeated(
    harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    seqs = [await harness.spool.append(update(name="n")) for _ in range(2)]
    settle, failures = harness.spool.settle, [SpoolUnavailable("gone", retry_after_s=1)]

    async def fail_once(*arguments: object) -> object:
        if failures:
            raise failures.pop()
        return await settle(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(harness.spool, "settle", fail_once)
    harness.central.script = [PROXY_413]

    await harness.deliver_all()

    assert [sent for sent in log(harness) if sent[0] == 1] == [
        (1, seqs, False),
        (1, seqs, True),
        (1, seqs, True),
    ]
    assert harness.listener.settled == set(seqs)
    assert harness.spool.epochs_started == 0


async def test_the_mark_is_synced_before_the_withdrawal_is_sent(harness: DeliveryHarness) -> None:
    await harness.spool.append(update(name="a"))
    await harness.spool.append(update(name="b"))
    await cut(harness.spool)
    syncs = harness.spool.writer.sync_count

    await harness.spool.withdraw()

    assert harness.spool.writer.sync_count == syncs + 1


async def test_a_withdrawn_batch_gives_its_runs_no_precedence(harness: DeliveryHarness) -> None:
    """Nothing of it was sent; what is cut anew and does not fit goes next, before other ends."""
    spool = harness.spool
    other = [await spool.append(update(OTHER_EID, name="n" * 1000))]
    seqs = [await spool.append(update(name="n" * 1000)) for _ in range(3)]
    seqs.append(await spool.append(update(status="COMPLETED", priority=Priority.TERMINAL)))
    assert numbers(await cut(spool, 2_500)) == seqs[:2]
    await spool.withdraw()
    other.append(
        await spool.append(update(OTHER_EID, priority=Priority.TERMINAL, status="COMPLETED"))
    )
    harness.delivery._byte_limit = BatchByteLimit(2_500)

    await harness.deliver_all()

    sent = [numbers(batch) for batch in harness.central.batches if not batch.is_withdrawn]
    assert sent == [[*other, seqs[0]], seqs[1:]]


async def test_a_withdrawal_out_of_step_begins_an_epoch(harness: DeliveryHarness) -> None:
    seqs = [await harness.spool.append(update(name="n")) for _ in range(2)]
    harness.central.script = [PROXY_413, OUT_OF_STEP]

    await harness.deliver_all()

    assert harness.spool.epochs_started == 1
    assert len({batch.epoch for batch in harness.central.batches}) == 2
    assert harness.listener.settled == set(seqs)


# Skip


async def skipped_in_flight(harness: DeliveryHarness, spools: Spools) -> tuple[list[int], int]:
    """Three writes in flight, the second of which is given up while the sidecar is stopped."""
    seqs = [await harness.spool.append(update(name="n")) for _ in range(3)]
    await cut(harness.spool)
    await spools.close()
    (record,) = skip_write(spools.directory, str(seqs[1]))
    assert record.state is WriteState.DURABLE
    return seqs, seqs[1]


async def check_skipped(
    harness: DeliveryHarness, seqs: list[int], skipped: int, reason: str
) -> None:
    """The skipped write is refused for that reason, and all are settled."""
    record = await harness.spool.find(skipped)
    assert record is not None
    assert record.problem is not None
    assert record.problem["type"] == "skipped-by-operator"
    assert record.problem["detail"].endswith(reason)
    assert harness.spool.skipped_count == 1
    assert harness.listener.settled == set(seqs)


async def test_a_skipped_write_in_flight_is_withdrawn_and_refused(
    harness: DeliveryHarness, spools: Spools
) -> None:
    seqs, skipped = await skipped_in_flight(harness, spools)
    again = harness_on(spools, await spools.open())

    await again.deliver_all()

    assert log(again) == [(1, seqs, True), (2, [seqs[0], seqs[2]], False)]
    await check_skipped(again, seqs, skipped, "and central does not have it")


@pytest.mark.parametrize(
    ("response", "state", "slug"),
    [(was_applied, "committed", None), (refused("late"), "refused", "late")],
    ids=["applied", "refused"],
)
async def test_a_skipped_write_that_central_has_ends_as_central_says(
    harness: DeliveryHarness,
    spools: Spools,
    response: Callable[[Batch], list[Outcome]],
    state: str,
    slug: str | None,
) -> None:
    seqs, skipped = await skipped_in_flight(harness, spools)
    again = harness_on(spools, await spools.open())
    again.central.script = [response]

    await again.deliver_all()

    assert log(again) == [(1, seqs, True)]
    record = await again.spool.find(skipped)
    assert record is not None
    assert (record.state, (record.problem or {}).get("type")) == (state, slug)
    assert again.spool.skipped_count == 0


async def test_a_skipped_write_that_central_had_deferred_is_refused(
    harness: DeliveryHarness, spools: Spools
) -> None:
    seqs, skipped = await skipped_in_flight(harness, spools)
    spool = await spools.open()
    batch = await spool.in_flight()
    assert batch is not None

    await settle(spool, batch, "deferred")

    assert await state_of(spool, skipped) is WriteState.REFUSED
    assert [entry.seq for entry in await spool.waiting(EID)] == [seqs[0], seqs[2]]


@pytest.mark.parametrize("is_damaged", [False, True])
async def test_a_skipped_write_stays_skipped_in_a_new_epoch(
    harness: DeliveryHarness, spools: Spools, is_damaged: bool
) -> None:
    seqs, skipped = await skipped_in_flight(harness, spools)
    if is_damaged:
        spools.flip(seqs[0])
    again = harness_on(spools, await spools.open())
    again.central.script = [] if is_damaged else [OUT_OF_STEP]

    await again.deliver_all()

    assert again.spool.epochs_started == 1
    assert skipped not in {e.seq for b in again.central.batches[-1:] for e in b.entries}
    await check_skipped(again, seqs, skipped, "whether central has it is unknown")
