"""Execution metadata through the sidecar, by the computing unit's client.

The client retries; the error that it raises in the end becomes `CallFailed`, or `Unreachable` if
there was no response before the deadline.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

from cu_metadata_client import Problem, calls
from cu_metadata_client import Unreachable as NoResponse
from cu_metadata_client.aio import AsyncClient
from cu_metadata_client.models import Write
from cu_metadata_client.protocol import Call
from dev.metadata_backend import CallFailed, NewExecution, RefusedCall, Unreachable

TERMINAL = frozenset({"COMPLETED", "FAILED", "KILLED"})
COMMIT_WAIT_S = 10
POLL_S = 0.1

T = TypeVar("T")


class SidecarBackend:
    """One computing unit's client of its sidecar. An async context manager.

    The user's token is for what comes before a run, and for its create; the run's own calls go by
    its run token, where the deployment issues them.

    `address` is `http://host:port` or `unix:/path`. `retries` counts the retries by call and reason
    (a problem type, or "connection").
    """

    def __init__(
        self,
        address: str,
        token: str,
        *,
        deadline_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = AsyncClient(
            address, token=token, deadline_s=deadline_s, clock=clock, sleep=sleep
        )
        self._run_token: str | None = None
        self._deadline_s = deadline_s
        self._clock = clock
        self._sleep = sleep
        self._undelivered: dict[str, str] = {}
        """Calls by the id of the write that they made, in order."""
        self.retries: Counter[tuple[str, str]] = Counter()

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.__aexit__(kind, error, traceback)

    async def register_boot(self, computing_unit_id: int, boot_id: str) -> list[int]:
        """Register a new master process; returns the runs of earlier ones, which end."""
        return await self._send("boot", calls.register_boot(computing_unit_id, boot_id))

    async def latest_execution(self, workflow_id: int, computing_unit_id: int) -> int | None:
        call = calls.latest_execution(workflow_id, computing_unit_id)
        found = await self._send("latest_execution", call)
        return None if found is None else found.execution_id

    async def clear_uris(self, execution_id: int) -> None:
        """Read first, as the unit needs the URIs to drop the tables they name; then delete."""
        stored = await self._send("clear_uris", calls.uris(execution_id))
        if stored.results or stored.console:
            await self._send("clear_uris", calls.delete_uris(execution_id))

    async def create_execution(self, new: NewExecution) -> int:
        call = calls.create_execution(
            new.workflow_id,
            new.computing_unit_id,
            new.environment_version,
            name=new.name or None,
            run_token=True,
        )
        created = await self._send("create_execution", call)
        self._run_token = created.run_token
        return created.execution_id

    async def store_status(self, execution_id: int, status: str) -> None:
        """A terminal status is waited for: after it the unit may go away."""
        wait_s = COMMIT_WAIT_S if status in TERMINAL else None
        call = calls.update_execution(execution_id, status=status, wait_s=wait_s)
        await self._write("store_status", call)

    async def store_runtime_stats_uri(self, workflow_id: int, execution_id: int, uri: str) -> None:
        call = calls.update_execution(execution_id, runtime_stats_uri=uri)
        await self._write("store_runtime_stats_uri", call)

    async def store_runtime_stats_bytes(self, execution_id: int, size_bytes: int) -> None:
        call = calls.update_execution(execution_id, runtime_stats_bytes=size_bytes)
        await self._write("store_runtime_stats_bytes", call)

    async def store_port_result(self, execution_id: int, port: str, uri: str) -> None:
        await self._write("store_port_result", calls.put_port_result(execution_id, port, uri))

    async def store_result_bytes(self, execution_id: int, port: str, size_bytes: int) -> None:
        call = calls.set_port_result_size(execution_id, port, size_bytes)
        await self._write("store_result_bytes", call)

    async def store_console(self, execution_id: int, operator_id: str, uri: str) -> None:
        await self._write("store_console", calls.put_console(execution_id, operator_id, uri))

    async def store_console_bytes(
        self, execution_id: int, operator_id: str, size_bytes: int | None
    ) -> None:
        if size_bytes is not None:
            call = calls.set_console_size(execution_id, operator_id, size_bytes)
            await self._write("store_console_bytes", call)

    async def result_uris(self, execution_id: int) -> list[str]:
        stored = await self._send_of_run("result_uris", calls.uris(execution_id))
        return [result.uri for result in stored.results.values()]

    async def result_uri(self, execution_id: int, operator_id: str, port: int) -> str | None:
        found = await self._send_of_run(
            "result_uri", calls.result_uri(execution_id, operator_id, port)
        )
        return None if found is None else found.uri

    async def wait_delivered(self) -> list[RefusedCall]:
        """Newest write first: once it is settled, those before it mostly are as well."""
        refused = []
        deadline = self._clock() + self._deadline_s
        for write_id, name in reversed(self._undelivered.items()):
            write = await self._send_of_run(f"settle {name}", calls.write(write_id))
            while write.state == "durable" and self._clock() < deadline:
                await self._sleep(POLL_S)
                write = await self._send_of_run(f"settle {name}", calls.write(write_id))
            if write.state != "committed":
                problem = write.problem or {"type": write.state}
                slug = str(problem["type"])
                refused.append(RefusedCall(name, slug, str(problem.get("detail", slug))))
        self._undelivered.clear()
        return refused

    async def _write(self, name: str, call: Call[Write]) -> None:
        write = await self._send_of_run(name, call)
        if write.state != "committed":
            self._undelivered[write.write_id] = name

    async def _send_of_run(self, name: str, call: Call[T]) -> T:
        return await self._send(name, call, self._run_token)

    async def _send(self, name: str, call: Call[T], token: str | None = None) -> T:
        def on_retry(reason: str) -> None:
            self.retries[name, reason] += 1

        try:
            return await self._client.send(call, on_retry=on_retry, token=token)
        except NoResponse as error:
            raise Unreachable(RefusedCall(name, "connection", str(error))) from error
        except Problem as problem:
            text = problem.detail or problem.title or problem.type
            failed = CallFailed(RefusedCall(name, problem.type, text, problem.status))
            raise failed from problem
