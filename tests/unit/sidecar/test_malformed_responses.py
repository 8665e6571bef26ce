"""A success whose body has another form is not central's: 503, never 500, and nothing is kept."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidecar.api.services import SERVICES, Services
from sidecar.problems import CentralUnavailable
from sidecar.upstream.client import CallContext, CentralResponse
from sidecar.wire import forwarded, v1
from tests.unit.sidecar.read_fixtures import TOKEN, UNIT, WORKFLOW, FakeCentral, World, open_world
from tests.unit.sidecar.server_fixtures import app_of

EID = 7
BODIES = (b"", b"<html>", b"[]", b"{}", b'{"results":1}', b'"\xff"', b"[" * 100_000)
SELECTION = forwarded.Selection(WORKFLOW, [EID])
NEW = v1.NewExecutionRequest(WORKFLOW, UNIT, "1")


@dataclass
class Malformed(FakeCentral):
    """Responds to every call with 200 and `body`."""

    body: bytes = b""

    async def _respond(self, *_: Any, **__: Any) -> CentralResponse:
        return CentralResponse(200, self.body, 1, 1 << 40)

    create_execution = read = post = post_query = bind = _respond


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[tuple[World, Services, Malformed]]:
    async with open_world(tmp_path) as world:
        central = Malformed(world.clock)
        for part in (world.reads, world.reads._registries, world.reads._rows, world.reads._costs):
            part._central = central
        world.central = central
        yield world, app_of(world)[SERVICES], central


CALLS: dict[str, Callable[[Services, CallContext], Awaitable[object]]] = {
    "uris": lambda s, c: s.reads.uris(EID, c),
    "execution": lambda s, c: s.reads.execution(EID, c),
    "costs": lambda s, c: s.reads.costs(WORKFLOW, c),
    "list": lambda s, c: s.reads.list_page(WORKFLOW, v1.ListQuery(), c),
    "create": lambda s, c: s.writes.create(NEW, None, c),
    "bind": lambda s, c: s.writes.authorize(EID, c),
    "boot": lambda s, c: s.forwarded.register_boot(UNIT, forwarded.BootRequest("b"), None, c),
    "delete": lambda s, c: s.forwarded.delete(SELECTION, None, c),
    "bookmark": lambda s, c: s.forwarded.bookmark(
        forwarded.BookmarkSelection(WORKFLOW, [EID], True), None, c
    ),
    "clear": lambda s, c: s.forwarded.clear(UNIT, "/x", forwarded.ExpiredSelection([EID]), None, c),
    "expired": lambda s, c: s.forwarded.expired("/x", c),
    "version": lambda s, c: s.forwarded.latest_version(WORKFLOW, c),
    "export plan": lambda s, c: s.forwarded.plan_export(
        WORKFLOW, forwarded.ExportRequest(UNIT, [forwarded.ExportedOperator("op", "csv")]), c
    ),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_response_of_another_form_is_central_unavailable(
    services: tuple[World, Services, Malformed], name: str
) -> None:
    world, called, central = services
    for central.body in BODIES:
        with pytest.raises(CentralUnavailable):
            await CALLS[name](called, CallContext(TOKEN, user_id=1))

    assert world.spool.bindings.binding(EID) is None
    assert world.spool.bindings.boot is None
