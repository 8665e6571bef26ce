"""An execution's registry of URIs, the value of `GET /v1/executions/{id}/uris`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from kit.texera.uris import resolve_output_port
from sidecar.spool.entry import Entry
from sidecar.upstream.central_api import decode_response
from sidecar.wire import v1

_ROW_BYTES = 400
"""About what one row takes in memory beside its texts: the dict's slot, tuple and strings."""

_uris = msgspec.json.Decoder(v1.Uris)


def uris_target(execution_id: int) -> str:
    return f"/v1/executions/{execution_id}/uris"


@dataclass(slots=True)
class UriRegistry:
    """URIs with their sizes: results by global port id, consoles by operator id."""

    results: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    consoles: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    runtime_stats: tuple[str | None, int | None] | None = None
    """A size may come before its URI, and is then kept for it."""
    execution_id: ClassVar[None] = None
    """Its resource is the execution."""

    @classmethod
    def from_json(cls, body: bytes) -> "UriRegistry":
        uris = decode_response(body, _uris)
        stats = uris.runtime_stats
        return cls(
            {row.global_port_id: (row.uri, row.result_bytes) for row in uris.results},
            {row.operator_id: (row.uri, row.bytes) for row in uris.console},
            (stats.uri, stats.bytes) if stats is not None else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON of the response, in the order of the ids."""
        stats = self.runtime_stats
        return {
            "results": [
                {"global_port_id": port, "uri": uri, "result_bytes": size}
                for port, (uri, size) in sorted(self.results.items())
            ],
            "console": [
                {"operator_id": operator, "uri": uri, "bytes": size}
                for operator, (uri, size) in sorted(self.consoles.items())
            ],
            "runtime_stats": {"uri": stats[0], "bytes": stats[1]} if stats and stats[0] else None,
        }

    def resolve_port(self, operator_id: str, port_id: int, internal: bool) -> str | None:
        """The global port id of a logical port, by central's rule (`kit.texera.uris`)."""
        return resolve_output_port(self.results, operator_id, port_id, internal)

    def with_pending(self, entries: Sequence[Entry]) -> "UriRegistry":
        if not entries:
            return self
        changed = UriRegistry(dict(self.results), dict(self.consoles), self.runtime_stats)
        for entry in entries:
            changed.apply(msgspec.json.decode(entry.payload))
        return changed

    def apply(self, write: Mapping[str, Any]) -> None:
        """Applies a committed or pending write, in place.

        A pending write that central will refuse (`uri-conflict`) must not hide the stored URI,
        so a URI that is there stays.
        """
        match write["op"]:
            case "put_port_result":
                _put(
                    self.results,
                    write["global_port_id"],
                    write["result_uri"],
                    write.get("result_bytes"),
                )
            case "set_port_result_bytes":
                _resize(self.results, write["global_port_id"], write["result_bytes"])
            case "put_console":
                _put(self.consoles, write["operator_id"], write["uri"], write.get("bytes"))
            case "set_console_bytes":
                _resize(self.consoles, write["operator_id"], write["bytes"])
            case "delete_uris":
                self.results.clear()
                self.consoles.clear()
            case "update_execution":
                self._update_runtime_stats(write)

    def _update_runtime_stats(self, write: Mapping[str, Any]) -> None:
        uri, size = self.runtime_stats or (None, 0)
        uri = write.get("runtime_stats_uri", uri)
        self.runtime_stats = (uri, write.get("runtime_stats_bytes", size))

    @property
    def size_bytes(self) -> int:
        texts = [*self.results, *self.consoles]
        texts += [uri for uri, _ in (*self.results.values(), *self.consoles.values())]
        return _ROW_BYTES * (1 + len(texts)) + sum(map(len, texts))


def _put(rows: dict[str, tuple[str, int | None]], key: str, uri: str, size: int | None) -> None:
    stored = rows.get(key)
    if stored is None:
        rows[key] = (uri, size if size is not None else 0)
    elif stored[0] == uri and size is not None:
        rows[key] = (uri, size)


def _resize(rows: dict[str, tuple[str, int | None]], key: str, size: int) -> None:
    if key in rows:
        rows[key] = (rows[key][0], size)
