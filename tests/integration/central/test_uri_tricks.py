"""No trick of a URI is stored, whichever way it comes: one call, a batch, a sidecar."""

from typing import Any
from urllib.parse import quote

from dev.vfs_uri import console_uri, global_port_id, result_uri, runtime_stats_uri
from dev.world import WORLD
from tests.integration.central.central_fixtures import Sidecar
from tests.unit.kit.uri_variants import variants

PORT = global_port_id("op-1", 0)


def foreign(uri: str, workflow_id: int, execution_id: int) -> list[str]:
    """The tricks, with this row's numbers."""
    other = uri.replace(f"/wid/{workflow_id}", "/wid/7").replace(f"/eid/{execution_id}", "/eid/11")
    texts = [
        text.replace("/wid/7", f"/wid/{workflow_id}").replace("/eid/11", f"/eid/{execution_id}")
        for text in variants(other).values()
    ]
    return [text for text in texts if text.lower() != uri.lower() and "\x00" not in text]


async def test_tricks_are_refused_and_nothing_is_stored(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    workflow_id, execution_id = WORLD.workflow_id, (await sidecar.create()).body["execution_id"]
    run = f"/v1/executions/{execution_id}"
    rows = {
        "put_port_result": (
            f"{run}/ports/{quote(PORT)}",
            "result_uri",
            result_uri(workflow_id, execution_id, PORT),
            {"global_port_id": PORT},
        ),
        "put_console": (
            f"{run}/operators/op-1/console",
            "uri",
            console_uri(workflow_id, execution_id, "op-1"),
            {"operator_id": "op-1"},
        ),
        "update_execution": (
            run,
            "runtime_stats_uri",
            runtime_stats_uri(workflow_id, execution_id),
            {},
        ),
    }
    for op, (path, name, uri, ids) in rows.items():
        method = "PATCH" if op == "update_execution" else "PUT"
        texts = foreign(uri, workflow_id, execution_id)
        assert len(texts) > 40
        actual = {
            text: (await sidecar.call(method, path, {name: text}, user=WORLD.owner)).outcome
            for text in texts
        }
        assert actual == dict.fromkeys(texts, (422, "uri-mismatch"))
        batch = [{"execution_id": execution_id, "op": op, name: text, **ids} for text in texts]
        assert (await sidecar.deliver(*batch)).outcomes == ["uri-mismatch"] * len(texts)

    stored = await owner_connection.fetchval(
        """
        select count(*) from (
            select result_uri from texera_db.operator_port_executions
            where workflow_execution_id = $1
            union all
            select console_messages_uri from texera_db.operator_executions
            where workflow_execution_id = $1
            union all
            select runtime_stats_uri from texera_db.workflow_executions
            where eid = $1 and runtime_stats_uri is not null
        ) uris
        """,
        execution_id,
    )
    assert stored == 0
