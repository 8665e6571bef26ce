"""The registry of URIs as it is read: every row Texera may have left, and one response always."""

import re
from typing import Any
from urllib.parse import quote

import pytest

from central.store.queries import load
from dev.vfs_uri import console_uri, result_uri
from dev.world import WORLD
from tests.integration.central.central_fixtures import Sidecar
from tests.integration.central.rows import execution_by_sql


@pytest.fixture
async def eid(owner_connection: Any) -> int:
    return await execution_by_sql(owner_connection)


def port(operator: str, layer: str = "main", number: int = 0, **flags: str) -> str:
    internal, is_input = flags.get("internal", "false"), flags.get("input", "false")
    return (
        f"(logicalOpId={operator},layerName={layer},portId={number},"
        f"isInternal={internal},isInput={is_input})"
    )


async def store(
    connection: Any, eid: int, gpid: str, uri: str | None, size: int | None = 9
) -> None:
    await connection.execute(
        "INSERT INTO texera_db.operator_port_executions VALUES ($1, $2, $3, $4)",
        eid,
        gpid,
        uri,
        size,
    )


async def found(sidecar: Sidecar, eid: int, operator: str, more: str = "") -> str:
    """The global port id of the response, or the problem's slug."""
    target = f"/v1/executions/{eid}/result-uri?operator_id={quote(operator, safe='')}{more}"
    reply = await sidecar.get(target)
    return str(reply.body.get("global_port_id") or reply.body["type"])


async def test_a_result_is_found_by_its_logical_port(
    sidecar: Sidecar, owner_connection: Any, eid: int
) -> None:
    gpid = port("op-1")
    uri = result_uri(WORLD.workflow_id, eid, gpid)
    await store(owner_connection, eid, gpid, uri)

    reply = await sidecar.get(f"/v1/executions/{eid}/result-uri?operator_id=op-1")

    assert reply.status == 200
    assert reply.body == {"uri": uri, "global_port_id": gpid, "result_bytes": 9}


async def test_operator_number_and_internal_must_match(
    sidecar: Sidecar, owner_connection: Any, eid: int
) -> None:
    for gpid in (
        port("op-1", number=1),
        port("op-10"),
        port("op-1x"),
        port("OP-1"),
        port("op-2", internal="true"),
    ):
        await store(owner_connection, eid, gpid, "vfs:///x")

    assert await found(sidecar, eid, "op-1") == "result-uri-not-found"
    assert await found(sidecar, eid, "op-1", "&port_id=1") == port("op-1", number=1)
    assert await found(sidecar, eid, "op-2") == "result-uri-not-found"
    assert await found(sidecar, eid, "op-2", "&internal=true") == port("op-2", internal="true")


@pytest.mark.parametrize(
    "operator", ["%", "_", "op%", "op_1", "\\", "op-1,layerName=main", "(", ""]
)
async def test_an_operator_is_no_pattern(
    sidecar: Sidecar, owner_connection: Any, eid: int, operator: str
) -> None:
    await store(owner_connection, eid, port("op-1"), "vfs:///x")

    assert await found(sidecar, eid, operator) == "result-uri-not-found"


@pytest.mark.parametrize("layers", [("localAgg", "globalAgg"), ("globalAgg", "localAgg")])
async def test_of_several_layers_the_terminal_one_is_answered(
    sidecar: Sidecar, owner_connection: Any, eid: int, layers: tuple[str, str]
) -> None:
    """Texera returns whichever row comes first (ADR 0011)."""
    for layer in layers:
        await store(owner_connection, eid, port("op-1", layer), f"vfs:///{layer}")

    assert await found(sidecar, eid, "op-1") == port("op-1", "globalAgg")


async def test_an_old_operator_id_with_an_underscore_is_found(
    sidecar: Sidecar, owner_connection: Any, eid: int
) -> None:
    await store(owner_connection, eid, port("CSVFileScan_1"), "vfs:///x")

    assert await found(sidecar, eid, "CSVFileScan_1") == port("CSVFileScan_1")


@pytest.mark.parametrize("uri", [None, ""])
async def test_a_row_without_a_uri_is_none(
    sidecar: Sidecar, owner_connection: Any, eid: int, uri: str | None
) -> None:
    await store(owner_connection, eid, port("op-1"), uri)
    await store(owner_connection, eid, "no port at all", "vfs:///x", None)
    await owner_connection.execute(
        "INSERT INTO texera_db.operator_executions VALUES ($1, 'op-1', $2, NULL)", eid, uri
    )

    console = await sidecar.get(f"/v1/executions/{eid}/operators/op-1/console")
    every = await sidecar.get(f"/v1/executions/{eid}/uris")

    assert await found(sidecar, eid, "op-1") == "result-uri-not-found"
    assert console.outcome == (404, "console-not-found")
    assert every.body == {
        "results": [{"global_port_id": "no port at all", "uri": "vfs:///x", "result_bytes": 0}],
        "console": [],
        "runtime_stats": None,
    }


async def test_all_uris_are_answered_in_the_order_of_their_keys(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    eid = await execution_by_sql(
        owner_connection, runtime_stats_uri='vfs:///"quoted"\\', runtime_stats_size=2**40
    )
    for operator in ("op-2", "op-1"):
        gpid = port(operator)
        await store(owner_connection, eid, gpid, result_uri(WORLD.workflow_id, eid, gpid), None)
        await owner_connection.execute(
            "INSERT INTO texera_db.operator_executions VALUES ($1, $2, $3, 7)",
            eid,
            operator,
            console_uri(WORLD.workflow_id, eid, operator),
        )

    every = (await sidecar.get(f"/v1/executions/{eid}/uris")).body

    assert [row["global_port_id"] for row in every["results"]] == [port("op-1"), port("op-2")]
    assert [row["result_bytes"] for row in every["results"]] == [0, 0]
    assert [(row["operator_id"], row["bytes"]) for row in every["console"]] == [
        ("op-1", 7),
        ("op-2", 7),
    ]
    assert every["runtime_stats"] == {"uri": 'vfs:///"quoted"\\', "bytes": 2**40}


async def test_a_console_is_found_by_any_id_texera_could_store(
    sidecar: Sidecar, owner_connection: Any, eid: int
) -> None:
    operator = "op_1.é(a)%2F"
    await owner_connection.execute(
        "INSERT INTO texera_db.operator_executions VALUES ($1, $2, 'vfs:///x', NULL)", eid, operator
    )

    target = f"/v1/executions/{eid}/operators/{quote(operator, safe='')}/console"
    reply = await sidecar.get(target)

    assert (reply.status, reply.body) == (200, {"uri": "vfs:///x", "bytes": 0})


async def test_the_look_up_reads_one_executions_rows_by_the_primary_key(
    owner_connection: Any, eid: int
) -> None:
    """The registry grows for ever (Texera's issue 3845); a look-up must not."""
    await owner_connection.execute(
        "INSERT INTO texera_db.operator_port_executions"
        " SELECT eid, '(logicalOpId=op-' || n || ',layerName=', 'vfs:///x', 0"
        " FROM texera_db.workflow_executions, generate_series(1, 500) n"
    )
    await owner_connection.execute("ANALYZE texera_db.operator_port_executions")

    plan = await owner_connection.fetch(
        "EXPLAIN " + load("uris")["operator_results"].text,
        eid,
        WORLD.owner.user_id,
        False,
        "(logicalOpId=op-1,layerName=",
    )

    text = "\n".join(row[0] for row in plan)
    assert re.search(r"Index Cond: \(\(?workflow_execution_id = ", text), text
    assert "Seq Scan on operator_port_executions" not in text, text
