"""URIs of an execution, read by who may read its workflow. They are written as entries."""

import msgspec

from central.domain.callers import User
from central.problems import ConsoleNotFound, ResultUriNotFound
from central.store.access import execution_not_found
from central.store.database import Database
from central.store.queries import load
from central.wire import calls
from kit.texera.uris import port_prefix, resolve_output_port

_results = msgspec.json.Decoder(list[calls.PortUri])
_consoles = msgspec.json.Decoder(list[calls.ConsoleUri])


class Uris:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("uris")

    async def read_all(self, user: User, execution_id: int) -> calls.ExecutionUris:
        rows = await self._database.read(
            self._queries["read_uris"], execution_id, user.user_id, user.reads_everything
        )
        if not rows:
            raise execution_not_found(execution_id)
        row = rows[0]
        stats = None
        if row["runtime_stats_uri"]:
            stats = calls.StatsUri(row["runtime_stats_uri"], row["runtime_stats_bytes"])
        return calls.ExecutionUris(
            _results.decode(row["results"]), _consoles.decode(row["console"]), stats
        )

    async def result_uri(
        self, user: User, execution_id: int, query: calls.ResultUriQuery
    ) -> calls.ResultUri:
        """The result of a logical port; if several match, of the terminal layer."""
        rows = await self._database.read(
            self._queries["operator_results"],
            execution_id,
            user.user_id,
            user.reads_everything,
            port_prefix(query.operator_id),
        )
        if not rows:
            raise execution_not_found(execution_id)
        ports = {row["global_port_id"]: row for row in rows if row["global_port_id"] is not None}
        port = resolve_output_port(ports, query.operator_id, query.port_id, query.internal)
        if port is None:
            raise ResultUriNotFound(
                f"execution {execution_id}, operator {query.operator_id}, port {query.port_id}"
            )
        row = ports[port]
        return calls.ResultUri(row["uri"], row["global_port_id"], row["result_bytes"])

    async def console(
        self, user: User, execution_id: int, operator_id: str
    ) -> calls.OperatorConsole:
        rows = await self._database.read(
            self._queries["operator_console"],
            execution_id,
            user.user_id,
            user.reads_everything,
            operator_id,
        )
        if not rows:
            raise execution_not_found(execution_id)
        if not rows[0]["uri"]:
            raise ConsoleNotFound(f"execution {execution_id}, operator {operator_id}")
        return calls.OperatorConsole(rows[0]["uri"], rows[0]["bytes"])
