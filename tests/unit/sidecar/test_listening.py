"""The local API on its address and its unix socket, with the front door and without."""

import asyncio
from pathlib import Path

import pytest

from sidecar.front.listening import listening
from tests.databases import free_port
from tests.unit.sidecar.fronting import Line, app_of, door_of, get
from tests.unit.sidecar.reading import WORKFLOW, world

URIS = "/v1/executions/7/uris"


@pytest.mark.parametrize("front_door", [True, False])
async def test_both_listeners_serve_and_end_with_the_block(
    tmp_path: Path, front_door: bool
) -> None:
    socket, port = tmp_path / "api.sock", free_port()
    socket.touch()  # a killed predecessor's
    async with world(tmp_path / "spool") as here:
        here.central.add(7)
        here.central.readers.add(("a", WORKFLOW))
        app, door = app_of(here), door_of(here) if front_door else None
        async with listening(app, door, ("127.0.0.1", port), socket, shutdown_timeout_s=2.0):
            tcp = Line(*await asyncio.open_connection("127.0.0.1", port))
            unix = Line(*await asyncio.open_unix_connection(socket))
            idle = Line(*await asyncio.open_connection("127.0.0.1", port))
            for line in (tcp, unix, tcp, unix):
                assert (await line.ask(get(URIS))).status == 200

        for line in (tcp, unix, idle):
            assert await line.reply() is None, "the connection was left open"
            line.writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
