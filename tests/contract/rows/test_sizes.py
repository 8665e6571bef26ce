"""Rows 10 to 12 of the contract: how large results, statistics and consoles have become."""

from typing import Any

import asyncpg
import pytest

from dev.vfs_uri import runtime_stats_uri
from tests.contract.rows.pairs import (
    OPERATOR,
    PORT,
    WID,
    Pair,
    console_of,
    fetch_row,
    result_of,
    run_of,
)

INT_MAX = 2**31 - 1
THREE_GIB = 3 * 2**30


@pytest.mark.parametrize("size", [0, 1, INT_MAX])
async def test_row_10_a_results_size_is_stored(pair: Pair, size: int) -> None:
    eid = await started_with_rows(pair)

    await pair.old.store_result_bytes(eid, PORT, size)
    await pair.new.write("PATCH", result(eid), {"result_bytes": size})

    before, after = await pair.tables()
    assert before == after


@pytest.mark.parametrize("size", [0, 1, INT_MAX])
async def test_row_11_the_statistics_size_is_stored(pair: Pair, size: int) -> None:
    eid = await started_with_rows(pair)

    await pair.old.store_runtime_stats_bytes(eid, size)
    await pair.new.write("PATCH", run_of(eid), {"runtime_stats_bytes": size})

    before, after = await pair.tables()
    assert before == after


@pytest.mark.parametrize("size", [0, 1, INT_MAX])
async def test_row_12_a_consoles_size_is_stored(pair: Pair, size: int) -> None:
    eid = await started_with_rows(pair)

    await pair.old.store_console_bytes(eid, OPERATOR, size)
    await pair.new.write("PATCH", console(eid), {"bytes": size})

    before, after = await pair.tables()
    assert before == after


@pytest.mark.parametrize("size", [THREE_GIB, 2**63 - 1])
async def test_rows_10_to_12_hazard_sizes_over_2_gib_are_stored_as_they_are(
    now: Pair, size: int
) -> None:
    eid = await started_with_rows(now)

    await now.old.store_result_bytes(eid, PORT, size)
    await now.old.store_runtime_stats_bytes(eid, size)
    await now.old.store_console_bytes(eid, OPERATOR, size)
    await now.new.write("PATCH", result(eid), {"result_bytes": size})
    await now.new.write("PATCH", run_of(eid), {"runtime_stats_bytes": size})
    await now.new.write("PATCH", console(eid), {"bytes": size})

    before, after = await now.tables()
    assert before == after
    uris = (await now.new.get(f"{run_of(eid)}/uris")).body
    assert uris["results"][0]["result_bytes"] == size
    assert uris["console"][0]["bytes"] == uris["runtime_stats"]["bytes"] == size


async def test_rows_10_to_12_hazard_where_sizes_are_int_they_are_refused_and_never_wrapped(
    before: Pair,
) -> None:
    eid = await started_with_rows(before)
    run_row = await fetch_row(before.new_rows, eid)
    calls: dict[str, dict[str, Any]] = {
        result(eid): {"result_bytes": THREE_GIB},
        run_of(eid): {"runtime_stats_bytes": THREE_GIB},
        console(eid): {"bytes": THREE_GIB},
    }

    for target, body in calls.items():
        response = await before.new.call("PATCH", target, body, headers={"Prefer": "wait=30"})
        assert response.outcome == (422, "value-out-of-range"), target
        assert response.body["write_id"]
    with pytest.raises(asyncpg.DataError):
        await before.old.store_result_bytes(eid, PORT, THREE_GIB)

    old, new = await before.tables()
    assert old == new
    assert await fetch_row(before.new_rows, eid) == run_row


@pytest.mark.parametrize("size", [-1, 2**63, 1.5, "7"])
async def test_rows_10_to_12_hazard_no_size_is_one_problem(now: Pair, size: Any) -> None:
    eid = await started_with_rows(now)

    for target, field in ((result(eid), "result_bytes"), (console(eid), "bytes")):
        response = await now.new.call("PATCH", target, {field: size})
        assert response.outcome == (400, "invalid-request")
        assert [error["field"] for error in response.body["errors"]] == [field]


async def test_row_10_hazard_a_size_without_a_row_is_refused(now: Pair) -> None:
    """The old UPDATE touched nothing and said nothing."""
    eid = await now.started()

    await now.old.store_result_bytes(eid, PORT, 5)
    response = await now.new.call(
        "PATCH", result(eid), {"result_bytes": 5}, headers={"Prefer": "wait=30"}
    )

    assert response.outcome == (404, "port-result-not-found")


async def started_with_rows(pair: Pair) -> int:
    """A run that has a result, a console and statistics in both copies."""
    eid = await pair.started(runtime_stats_uri=None)
    uris = (result_of(eid), console_of(eid), runtime_stats_uri(WID, eid))
    await pair.old.store_port_result(eid, PORT, uris[0])
    await pair.old.store_console(eid, OPERATOR, uris[1])
    await pair.old.store_runtime_stats_uri(WID, eid, uris[2])
    await pair.new.write("PUT", result(eid), {"result_uri": uris[0]})
    await pair.new.write("PUT", console(eid), {"uri": uris[1]})
    await pair.new.write("PATCH", run_of(eid), {"runtime_stats_uri": uris[2]})
    return eid


def result(eid: int) -> str:
    return f"{run_of(eid)}/ports/{PORT}"


def console(eid: int) -> str:
    return f"{run_of(eid)}/operators/{OPERATOR}/console"
