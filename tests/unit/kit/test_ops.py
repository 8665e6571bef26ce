"""The ops listener."""

import threading
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, exposition

from kit.http import ops
from kit.http.connection_limits import ConnectionLimiter
from kit.http.metrics import Definitions


async def test_values_are_read_on_the_loop_and_written_out_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is read changes on the loop; a long text must not keep calls waiting."""
    registry = CollectorRegistry()
    readers, writers = [], []

    def read() -> float:
        readers.append(threading.current_thread())
        return 1

    def encode(collected: CollectorRegistry) -> bytes:
        writers.append(threading.current_thread())
        text: bytes = exposition.generate_latest(collected)
        return text

    async def describe_page() -> dict[str, Any]:
        return {}

    Definitions(registry).gauge("x_entries", "Entries.").labels().read = read
    monkeypatch.setattr(exposition, "choose_encoder", lambda accept: (encode, "text/plain"))
    app = ops.ops_app(registry, list, dict, describe_page, ConnectionLimiter())

    async with TestClient(TestServer(app)) as client, client.get("/metrics") as response:
        text = await response.text()

    assert "x_entries 1.0" in text.splitlines()
    assert readers == [threading.current_thread()]
    assert threading.current_thread() not in writers
