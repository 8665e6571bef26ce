"""Execution metadata through the sidecar's localhost API, with the manners a client of it needs.

A connection that breaks (the sidecar was killed and comes back) and an answer that says "later"
(503 and 429, with Retry-After) are asked again until `patience_s` is over; a create carries one
idempotency key through all its attempts, everything else may be repeated as it is. Any other answer
that is not a success is the caller's to judge: `CallFailed`. No answer at all in that time is
`Unreachable`.
"""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from dev.metadata_backend import CallFailed, NewExecution, Refused, Unreachable

TERMINAL = frozenset({"COMPLETED", "FAILED", "KILLED"})
_COMMIT_WAIT_S = 10
_LATER = frozenset({429, 503, 504})
_LONGEST_PAUSE_S = 5.0
_FIRST_PAUSE_S = 0.05


class SidecarBackend:
    """One computing unit's keep-alive session with its sidecar. An async context manager.

    `address` is `http://host:port` or `unix:/path`. `retries` counts what had to be asked again, by
    call and reason (a status, or "connection").
    """

    def __init__(
        self,
        address: str,
        token: str,
        *,
        patience_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._unix_socket = address.removeprefix("unix:") if address.startswith("unix:") else None
        self._base_url = "http://localhost" if self._unix_socket else address.rstrip("/")
        self._token = token
        self._patience_s = patience_s
        self._clock = clock
        self._sleep = sleep
        self._unsettled: dict[str, str] = {}
        self.retries: Counter[tuple[str, str]] = Counter()

    async def __aenter__(self) -> Self:
        connector = (
            aiohttp.UnixConnector(path=self._unix_socket)
            if self._unix_socket
            else aiohttp.TCPConnector(limit=4)
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=aiohttp.ClientTimeout(total=30 + _COMMIT_WAIT_S),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def boot(self, computing_unit_id: int, boot_id: str) -> list[int]:
        """Say that this is a new master process; the runs of those before it, which end."""
        path = f"/computing-units/{computing_unit_id}/boots"
        answer = await self._call("boot", "POST", path, body={"boot_id": boot_id})
        return list(answer["closed"])

    async def latest_execution(self, workflow_id: int, computing_unit_id: int) -> int | None:
        path = f"/workflows/{workflow_id}/executions/latest?computing_unit_id={computing_unit_id}"
        found = await self._read("latest_execution", path)
        return None if found is None else int(found["execution_id"])

    async def clear_uris(self, execution_id: int) -> None:
        """Ask first, as the unit needs the URIs to drop the tables they name; then delete."""
        stored = await self._read("clear_uris", f"/executions/{execution_id}/uris")
        if stored and (stored["results"] or stored["console"]):
            await self._call("clear_uris", "DELETE", f"/executions/{execution_id}/uris")

    async def create_execution(self, new: NewExecution) -> int:
        created = await self._call(
            "create_execution",
            "POST",
            "/executions",
            body={
                "workflow_id": new.workflow_id,
                "computing_unit_id": new.computing_unit_id,
                "environment_version": new.environment_version,
                "name": new.name,
            },
            headers={"Idempotency-Key": str(uuid.uuid4())},
        )
        return int(created["execution_id"])

    async def store_status(self, execution_id: int, status: str) -> None:
        """A terminal one is waited for: after it the unit may go away."""
        await self._write(
            "store_status",
            "PATCH",
            f"/executions/{execution_id}",
            {"status": status},
            wait=status in TERMINAL,
        )

    async def store_runtime_stats_uri(self, workflow_id: int, execution_id: int, uri: str) -> None:
        path = f"/executions/{execution_id}"
        await self._write("store_runtime_stats_uri", "PATCH", path, {"runtime_stats_uri": uri})

    async def store_runtime_stats_bytes(self, execution_id: int, size_bytes: int) -> None:
        path, body = f"/executions/{execution_id}", {"runtime_stats_bytes": size_bytes}
        await self._write("store_runtime_stats_bytes", "PATCH", path, body)

    async def store_port_result(self, execution_id: int, port: str, uri: str) -> None:
        path = f"/executions/{execution_id}/ports/{_segment(port)}"
        await self._write("store_port_result", "PUT", path, {"result_uri": uri})

    async def store_result_bytes(self, execution_id: int, port: str, size_bytes: int) -> None:
        path = f"/executions/{execution_id}/ports/{_segment(port)}"
        await self._write("store_result_bytes", "PATCH", path, {"result_bytes": size_bytes})

    async def store_console(self, execution_id: int, operator_id: str, uri: str) -> None:
        path = f"/executions/{execution_id}/operators/{_segment(operator_id)}/console"
        await self._write("store_console", "PUT", path, {"uri": uri})

    async def store_console_bytes(
        self, execution_id: int, operator_id: str, size_bytes: int | None
    ) -> None:
        if size_bytes is not None:
            path = f"/executions/{execution_id}/operators/{_segment(operator_id)}/console"
            await self._write("store_console_bytes", "PATCH", path, {"bytes": size_bytes})

    async def result_uris(self, execution_id: int) -> list[str]:
        stored = await self._read("result_uris", f"/executions/{execution_id}/uris")
        return [] if stored is None else [result["uri"] for result in stored["results"]]

    async def result_uri(self, execution_id: int, operator_id: str, port: int) -> str | None:
        query = f"operator_id={quote(operator_id, safe='')}&port_id={port}"
        found = await self._read("result_uri", f"/executions/{execution_id}/result-uri?{query}")
        return None if found is None else str(found["uri"])

    async def settle(self) -> list[Refused]:
        """Asks for the newest write first: by the time it is settled, the others are as well."""
        refused = []
        give_up_at = self._clock() + self._patience_s
        for write_id, call in reversed(self._unsettled.items()):
            write = await self._write_state(call, write_id)
            while write["state"] == "durable" and self._clock() < give_up_at:
                await self._sleep(0.1)
                write = await self._write_state(call, write_id)
            if write["state"] != "committed":
                problem = write.get("problem") or {"type": write["state"]}
                refused.append(_refused(call, None, problem))
        self._unsettled.clear()
        return refused

    async def _write_state(self, call: str, write_id: str) -> dict[str, Any]:
        write = await self._call(f"settle {call}", "GET", f"/writes/{_segment(write_id)}")
        assert isinstance(write, dict)
        return write

    async def _write(
        self, call: str, method: str, path: str, body: dict[str, Any], *, wait: bool = False
    ) -> None:
        headers = {"Prefer": f"wait={_COMMIT_WAIT_S}"} if wait else None
        answer = await self._call(call, method, path, body=body, headers=headers)
        if answer["state"] != "committed":
            self._unsettled[answer["write_id"]] = call

    async def _read(self, call: str, path: str) -> Any:
        """The answer, or None where there is nothing (404 is an ordinary answer to a question)."""
        return await self._call(call, "GET", path, absent_is_none=True)

    async def _call(
        self,
        call: str,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        absent_is_none: bool = False,
    ) -> Any:
        """One call, asked again while there is hope; its answer's JSON."""
        give_up_at = self._clock() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async with self._session.request(
                    method, f"{self._base_url}/v1{path}", json=body, headers=headers
                ) as response:
                    answer = await _json(response)
            except (
                aiohttp.ClientConnectionError,
                aiohttp.ClientPayloadError,
                TimeoutError,
            ) as error:
                status, answer = None, {"type": "connection", "detail": str(error)}
                pause_s = min(pause_s * 2, 1.0)
            else:
                status = response.status
                if status < 400:
                    return answer
                if status == 404 and absent_is_none:
                    return None
                if status in _LATER:
                    pause_s = min(_retry_after_s(response), _LONGEST_PAUSE_S)
            is_over = self._clock() + pause_s > give_up_at
            if status is None and is_over:
                raise Unreachable(_refused(call, status, answer))
            if is_over or (status is not None and status not in _LATER):
                raise CallFailed(_refused(call, status, answer))
            self.retries[call, str(answer.get("type", status))] += 1
            await self._sleep(pause_s)


def _segment(text: str) -> str:
    """One segment of a path: parentheses, commas and equals signs may stand in it (RFC 3986)."""
    return quote(text, safe="(),=")


def _refused(call: str, http_status: int | None, problem: Any) -> Refused:
    slug = problem.get("type", "no problem type")
    return Refused(call, slug, problem.get("detail") or problem.get("title") or slug, http_status)


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 1.0


async def _json(response: aiohttp.ClientResponse) -> Any:
    """The answer's JSON; an answer that is none (a proxy's page) becomes a problem of its own."""
    text = await response.text()
    try:
        answer = await response.json(content_type=None)
    except ValueError:
        return {"type": f"http-{response.status}", "detail": text[:200]}
    return {} if answer is None else answer
