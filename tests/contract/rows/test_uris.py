"""Rows 6 to 9 and 13 of the contract: where results and consoles are."""

from urllib.parse import quote

import asyncpg
import pytest

from dev.vfs_uri import global_port_id
from dev.world import WORLD
from tests.contract.rows.pairs import (
    OPERATOR,
    PORT,
    Pair,
    console_of,
    result_of,
    run_of,
    store_result,
)

CONSOLE = "/operators/{}/console"


# Row 6: insertOperatorExecutions ------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["op-1", "old_op_1", "ü" * 100])
async def test_row_06_a_console_is_inserted(pair: Pair, operator: str) -> None:
    eid = await pair.started()
    uri = console_of(eid, operator)

    await pair.old.store_console(eid, operator, uri)
    await pair.new.write("PUT", run_of(eid) + CONSOLE.format(quote(operator)), {"uri": uri})

    before, after = await pair.tables()
    assert before == after


async def test_row_06_hazard_a_duplicate_insert_is_one_row(now: Pair) -> None:
    eid = await now.started()
    uri = console_of(eid)
    await now.old.store_console(eid, OPERATOR, uri)

    with pytest.raises(asyncpg.UniqueViolationError):
        await now.old.store_console(eid, OPERATOR, uri)
    for _ in range(2):
        await now.new.write("PUT", run_of(eid) + CONSOLE.format(OPERATOR), {"uri": uri})

    before, after = await now.tables()
    assert before == after


@pytest.mark.parametrize("operator", ["x" * 101, "a,b"])
async def test_row_06_hazard_an_id_that_no_column_or_uri_holds_is_refused(
    now: Pair, operator: str
) -> None:
    eid = await now.new.create()

    response = await now.new.call(
        "PUT", run_of(eid) + CONSOLE.format(operator), {"uri": console_of(eid, operator)}
    )

    assert response.outcome == (400, "invalid-request")
    assert [error["field"] for error in response.body["errors"]] == ["operator_id"]


async def test_row_06_hazard_a_console_of_a_deleted_execution_ends(now: Pair) -> None:
    """The insert failed with 23503, and was tried again at each message."""
    eid = await now.started()
    await now.both("DELETE FROM texera_db.workflow_executions WHERE eid = $1", eid)

    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await now.old.store_console(eid, OPERATOR, console_of(eid))
    response = await now.new.call(
        "PUT",
        run_of(eid) + CONSOLE.format(OPERATOR),
        {"uri": console_of(eid)},
        headers={"Prefer": "wait=30"},
    )

    assert response.outcome == (404, "execution-not-found")


# Row 7: persistOperatorPortResultUri --------------------------------------------------------------


async def test_row_07_a_ports_result_is_inserted(pair: Pair) -> None:
    eid = await pair.started()

    for port in (PORT, global_port_id(OPERATOR, 1), global_port_id("op-2", 0)):
        await pair.old.store_port_result(eid, port, result_of(eid, port))
        body = {"result_uri": result_of(eid, port)}
        await pair.new.write("PUT", f"{run_of(eid)}/ports/{port}", body)

    before, after = await pair.tables()
    assert before == after


async def test_row_07_hazard_a_port_that_is_materialised_twice_is_one_row(now: Pair) -> None:
    eid = await now.started()
    await now.old.store_port_result(eid, PORT, result_of(eid))

    with pytest.raises(asyncpg.UniqueViolationError):
        await now.old.store_port_result(eid, PORT, result_of(eid))
    for _ in range(2):
        body = {"result_uri": result_of(eid)}
        await now.new.write("PUT", f"{run_of(eid)}/ports/{PORT}", body)

    before, after = await now.tables()
    assert before == after


async def test_row_07_hazard_somebody_elses_table_is_not_registered(now: Pair) -> None:
    """What is registered is dropped at clean-up, whosever it is."""
    eid = await now.started()
    foreign = result_of(WORLD.completed_execution_id)

    response = await now.new.call("PUT", f"{run_of(eid)}/ports/{PORT}", {"result_uri": foreign})

    assert response.outcome == (422, "uri-mismatch")
    before, after = await now.tables()
    assert before == after


# Row 8: getResultUrisByExecutionId ----------------------------------------------------------------


@pytest.mark.parametrize("eid", [WORLD.completed_execution_id, WORLD.failed_execution_id])
async def test_row_08_all_results_are_listed(pair: Pair, eid: int) -> None:
    old = await pair.old.result_uris(eid)

    new = await pair.new.get(f"{run_of(eid)}/uris")

    assert sorted(row["uri"] for row in new.body["results"]) == sorted(old)


async def test_row_08_hazard_a_poll_sees_the_result_before_it_is_delivered(now: Pair) -> None:
    """Over HTTP without a memory the poll came back empty, and the page never learned of it."""
    eid = await now.started()
    async with now.new_rows.transaction():
        await now.new_rows.execute(
            "SELECT FROM texera_db.workflow_executions WHERE eid = $1 FOR UPDATE", eid
        )
        uri = {"result_uri": result_of(eid)}
        await now.new.call("PUT", f"{run_of(eid)}/ports/{PORT}", uri)

        polled = await now.new.get(f"{run_of(eid)}/uris")

    assert [row["uri"] for row in polled.body["results"]] == [result_of(eid)]
    assert polled.headers["X-Cache"] == "pending"


async def test_row_08_hazard_a_row_without_a_uri_breaks_nothing(now: Pair) -> None:
    eid = WORLD.failed_execution_id
    await store_result(now, eid)
    await now.both(
        "INSERT INTO texera_db.operator_port_executions VALUES ($1, 'torn', NULL, NULL)", eid
    )

    polled = await now.new.get(f"{run_of(eid)}/uris")

    assert [row["uri"] for row in polled.body["results"]] == await now.old.result_uris(eid)


# Row 9: getResultUriByLogicalPortId ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "port"), [("op-1", 0), ("op-1", 1), ("op-2", 0), ("op_3", 0), ("op", 0)]
)
async def test_row_09_a_result_is_found_by_its_logical_port(
    pair: Pair, operator: str, port: int
) -> None:
    eid = await pair.started()
    for stored in (("op-1", 0), ("op-1", 1), ("op-10", 0), ("op_3", 0)):
        await store_result(pair, eid, global_port_id(*stored))
    # Written by an earlier release, so no memory of this sidecar may answer for it.
    await pair.new_rows.execute("DELETE FROM cu_metadata.bindings WHERE execution_id = $1", eid)

    old = await pair.old.result_uri(eid, operator, port)
    new = await pair.new.central.get(
        f"{run_of(eid)}/result-uri?operator_id={operator}&port_id={port}"
    )

    if old is None:
        assert new.outcome == (404, "result-uri-not-found")
    else:
        assert new.body["uri"] == old


@pytest.mark.parametrize("layers", [("localAgg", "globalAgg"), ("globalAgg", "localAgg")])
async def test_row_09_hazard_of_two_layers_the_terminal_one_is_answered(
    now: Pair, layers: tuple[str, str]
) -> None:
    """The old way answers whichever row the table gives first."""
    eid = WORLD.failed_execution_id
    uris = {layer: result_of(eid, PORT.replace("main", layer)) for layer in layers}
    for layer in layers:
        await store_result(now, eid, PORT.replace("main", layer))

    old = await now.old.result_uri(eid, OPERATOR, 0)
    new = await now.new.get(f"{run_of(eid)}/result-uri?operator_id={OPERATOR}")

    assert old in uris.values()
    assert new.body["uri"] == uris["globalAgg"]


async def test_row_09_hazard_one_torn_id_does_not_hide_the_others(now: Pair) -> None:
    """A comma in an operator's id could be written, not read: every look-up failed from then on."""
    eid = WORLD.failed_execution_id
    await store_result(now, eid, PORT.replace(OPERATOR, "a,b"))
    await store_result(now, eid)

    new = await now.new.get(f"{run_of(eid)}/result-uri?operator_id={OPERATOR}")

    assert new.body["uri"] == result_of(eid)


# Row 13: getConsoleMessageUri ---------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["HashJoin-1", "silent"])
async def test_row_13_a_console_is_found(pair: Pair, operator: str) -> None:
    eid = WORLD.completed_execution_id
    old = await pair.old_rows.fetchval(
        "SELECT console_messages_uri FROM texera_db.operator_executions"
        " WHERE workflow_execution_id = $1 AND operator_id = $2",
        eid,
        operator,
    )

    new = await pair.new.get(run_of(eid) + CONSOLE.format(operator))

    if old is None:
        assert new.outcome == (404, "console-not-found")
    else:
        assert new.body["uri"] == old
