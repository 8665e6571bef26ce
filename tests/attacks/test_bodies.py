"""Bodies take no more from others than their sender has a right to, on the wire and in memory."""

import json
import time
from contextlib import ExitStack
from typing import Any

import asyncpg
import msgspec
import pytest

from central.wire.entries import digest_of
from dev.ready import Ready
from tests.attacks.conftest import Record
from tests.attacks.hostile import BATCHES, MIB, Source, connect, head, peak_bytes, probing

LIVE_S = 1.0
"""The chart's probes give up after a second."""


def entry_of(size_bytes: int) -> bytes:
    entry = {"seq": 1, "execution_id": 1, "made_at_ms": 0, "op": "update_execution"}
    return json.dumps(entry | {"result": "x" * size_bytes}).encode()


def test_announced_bodies_keep_nobody_out(system: Ready, record: Record, rounds: int) -> None:
    source, tries = Source(system["central"]), 20 * rounds
    source.bind(system)
    entry = entry_of(100_000)
    digest = digest_of([msgspec.Raw(entry)])
    headers = {"Content-Type": "application/json", "Content-Length": str(8 * MIB)}
    announced = head("POST", BATCHES, headers) + b"[" * 500

    with ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(connect(system["central"])).sendall(announced)
        statuses = [
            source.post(BATCHES, source.batch(number, entry, digest))
            for number in range(1, tries + 1)
        ]

    record(f"{statuses.count(200)} of {tries} batches of 100 kB are applied")
    assert statuses == [200] * tries


@pytest.mark.parametrize(
    ("is_bound", "filling"),
    [(False, b"0,"), (True, b"0,"), (True, b'{"seq":1,"execution_id":1},')],
    ids=["unbound", "bound", "bound, smallest entries"],
)
def test_dense_batches_take_little_memory(
    system: Ready, record: Record, rounds: int, is_bound: bool, filling: bytes
) -> None:
    source = Source(system["central"])
    if is_bound:
        source.bind(system)
    entries = (filling * ((8 * MIB - 300) // len(filling)))[:-1]

    with probing(f"{system['central_ops']}/livez") as probes:
        statuses = {source.post(BATCHES, source.batch(1, entries)) for _ in range(rounds)}

    peak = peak_bytes(system, "central") / MIB
    record(f"central peaks at {peak:.0f} MiB; /livez takes {probes.longest_s:.2f} s at most")
    assert statuses <= {400, 413, 429}
    assert probes.longest_s < LIVE_S
    assert not probes.failures


@pytest.mark.parametrize(
    ("is_bound", "size", "expected"),
    [(False, 8 * MIB, 413), (True, 8 * MIB, 413), (True, 2 * MIB, 200)],
    ids=["unbound", "bound", "bound, as large as may be"],
)
def test_lone_surrogates_do_not_hold_up_the_loop(
    system: Ready, record: Record, rounds: int, is_bound: bool, size: int, expected: int
) -> None:
    source = Source(system["central"])
    if is_bound:
        source.bind(system)
    entry = entry_of(0).replace(b'""', b'"' + rb"\ud800" * (size // 6 - 100) + b'"')
    batch = source.batch(1, entry, digest_of([msgspec.Raw(entry)]))

    with probing(f"{system['central_ops']}/livez") as probes:
        started_at = time.monotonic()
        statuses = {source.post(BATCHES, batch) for _ in range(rounds)}
        taken_s = (time.monotonic() - started_at) / rounds

    record(f"a body takes {taken_s:.1f} s, /livez {probes.longest_s:.2f} s at most")
    assert statuses <= {expected, 429}
    assert probes.longest_s < LIVE_S
    assert not probes.failures


async def test_an_export_plan_of_a_huge_workflow_takes_little_memory(
    system: Ready, record: Record, rounds: int
) -> None:
    source, workflow = Source(system["central"]), system["workflow_id"]
    plan: dict[str, Any] = {
        "computing_unit_id": system["computing_unit_id"],
        "operators": [{"id": "a", "output_type": "csv"}],
    }
    owner = await asyncpg.connect(system["database"])
    sizes = [18 * MIB, 4 * MIB - 100]
    statuses = []

    try:
        for size in sizes:
            content = '{"operators": [' + ('{"a":{}},' * (size // 9))[:-1] + "]}"
            await owner.execute(
                "update texera_db.workflow set content = $1 where wid = $2", content, workflow
            )
            with probing(f"{system['central_ops']}/livez") as probes:
                for _ in range(rounds):
                    statuses.append(
                        source.post(
                            f"/v1/workflows/{workflow}/export-plan",
                            json.dumps(plan).encode(),
                            system["users"]["owner"]["token"],
                        )
                    )
    finally:
        await owner.close()

    peak = peak_bytes(system, "central") / MIB
    record(f"central peaks at {peak:.0f} MiB; /livez takes {probes.longest_s:.2f} s at most")
    assert set(statuses) <= {200, 409}
    assert probes.longest_s < LIVE_S
