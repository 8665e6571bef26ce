"""PATCH requests for the write fast path, and the bindings that they need."""

import msgspec

from tests.unit.sidecar.read_fixtures import WORKFLOW, World

EID, OTHER_EID, UNBOUND_EID = 7, 8, 9


def patch(body: bytes, *headers: str, execution_id: int = EID) -> bytes:
    lines = [
        f"PATCH /v1/executions/{execution_id} HTTP/1.1",
        "Host: localhost",
        "Authorization: Bearer a",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def named(name: str) -> bytes:
    return msgspec.json.encode({"name": name})


async def create_binding(world: World) -> None:
    for execution_id in (EID, OTHER_EID):
        world.central.add(execution_id)
        await world.bind(execution_id)
    world.central.readers |= {("a", WORKFLOW), ("b", WORKFLOW)}
