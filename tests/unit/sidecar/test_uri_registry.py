"""The URI registry: its JSON, its look-ups, and how writes change it."""

from typing import Any

import msgspec
import pytest

from sidecar.cache.uri_registry import UriRegistry
from sidecar.spool.entry import Entry, Priority


def port(layer: str = "main", number: int = 0, operator: str = "op") -> str:
    return (
        f"(logicalOpId={operator},layerName={layer},portId={number},isInternal=false,isInput=false)"
    )


DOCUMENT: dict[str, Any] = {
    "results": [
        {"global_port_id": port("a"), "uri": "vfs:///a", "result_bytes": 1},
        {"global_port_id": port("b"), "uri": "vfs:///b", "result_bytes": None},
    ],
    "console": [{"operator_id": "op", "uri": "vfs:///c", "bytes": 3}],
    "runtime_stats": {"uri": "vfs:///s", "bytes": 4},
}


def decode(document: dict[str, Any]) -> UriRegistry:
    return UriRegistry.from_json(msgspec.json.encode(document))


def put_result(uri: str, **members: Any) -> dict[str, Any]:
    return {"op": "put_port_result", "global_port_id": port(), "result_uri": uri} | members


@pytest.mark.parametrize(
    "document", [DOCUMENT, {"results": [], "console": [], "runtime_stats": None}]
)
def test_the_json_of_a_registry_round_trips(document: dict[str, Any]) -> None:
    assert decode(document).to_json() == document


def test_a_logical_port_resolves_to_one_of_its_layers() -> None:
    registry = decode(DOCUMENT)

    assert registry.resolve_port("op", 0, internal=False) == port("b")
    assert registry.resolve_port("op", 1, internal=False) is None
    assert registry.resolve_port("op", 0, internal=True) is None
    assert registry.resolve_port("o", 0, internal=False) is None


def test_a_first_uri_is_stored_with_size_zero_unless_it_names_one() -> None:
    plain, sized = UriRegistry(), UriRegistry()

    plain.apply(put_result("vfs:///a"))
    sized.apply(put_result("vfs:///a", result_bytes=9))

    assert plain.results == {port(): ("vfs:///a", 0)}
    assert sized.results == {port(): ("vfs:///a", 9)}


def test_a_stored_uri_is_not_replaced() -> None:
    registry = UriRegistry()
    registry.apply(put_result("vfs:///a", result_bytes=9))

    registry.apply(put_result("vfs:///other", result_bytes=1))
    registry.apply(put_result("vfs:///a"))

    assert registry.results == {port(): ("vfs:///a", 9)}


def test_a_size_changes_a_stored_row_and_creates_none() -> None:
    registry = decode(DOCUMENT)
    sizes = [
        {"op": "set_port_result_bytes", "global_port_id": port("a"), "result_bytes": 50},
        {"op": "set_port_result_bytes", "global_port_id": port("z"), "result_bytes": 50},
        {"op": "set_console_bytes", "operator_id": "op", "bytes": 60},
        {"op": "set_console_bytes", "operator_id": "none", "bytes": 60},
    ]

    for write in sizes:
        registry.apply(write)

    assert registry.results == {port("a"): ("vfs:///a", 50), port("b"): ("vfs:///b", None)}
    assert registry.consoles == {"op": ("vfs:///c", 60)}


def test_a_delete_keeps_the_runtime_statistics() -> None:
    registry = decode(DOCUMENT)

    registry.apply({"op": "delete_uris"})

    assert registry == UriRegistry(runtime_stats=("vfs:///s", 4))


def test_the_last_runtime_statistics_win_as_they_do_at_central() -> None:
    registry = UriRegistry()

    registry.apply({"op": "update_execution", "runtime_stats_uri": "vfs:///s"})
    registry.apply({"op": "update_execution", "runtime_stats_uri": "vfs:///other"})
    registry.apply({"op": "update_execution", "runtime_stats_bytes": 5})
    registry.apply({"op": "update_execution", "name": "of no concern"})

    assert registry.runtime_stats == ("vfs:///other", 5)


def test_pending_writes_are_applied_to_a_copy() -> None:
    registry = decode(DOCUMENT)
    delete = Entry(1, 7, 1, "delete_uris", Priority.URI, None, b'{"op": "delete_uris"}')

    changed = registry.with_pending([delete])

    assert changed.results == {}
    assert registry.to_json() == DOCUMENT
    assert registry.with_pending([]) is registry
