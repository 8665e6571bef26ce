"""Concurrent clients of a sidecar: what they do, and how they record what they saw."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from dev.vfs_uri import global_port_id, result_uri
from tests.linearizability.history import NEVER, History, Operation

REFUSED_PREFIX = "refused"
"""Values of names that central refuses, where a test's central does."""
INITIAL: dict[Any, Any] = {"name": "a run", "status": "READY", "stats": 0, "uri": None, "size": 0}
OK, DURABLE, NOT_FOUND, UNAVAILABLE = 200, 202, 404, 503
LIST_MAX = 1000
PAUSE_S = 0.002


@dataclass
class Server:
    """The sidecar as clients know it. `url` changes with a restart; the token does not."""

    url: Callable[[], str]
    token: str
    session: aiohttp.ClientSession

    async def call(self, method: str, target: str, body: Any = None) -> tuple[int, Any]:
        """Raises `aiohttp.ClientError` or OSError if there is no response."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.session.request(
            method, self.url() + target, json=body, headers=headers
        ) as response:
            return response.status, await response.json(content_type=None)


@dataclass
class Run:
    """Clients of one execution. They pause at random, by one seed."""

    server: Server
    history: History
    workflow_id: int
    execution_id: int
    chance: random.Random
    can_be_refused: bool = True
    acknowledged: list[Operation] = field(default_factory=list)

    @property
    def target(self) -> str:
        return f"/v1/executions/{self.execution_id}"

    # Operations

    async def write(
        self, field_name: str, value: Any, method: str, target: str, body: Any, part: str = ""
    ) -> bool:
        """Whether it was acknowledged."""
        is_refused = str(value).startswith(REFUSED_PREFIX)
        register = (self.execution_id, part, field_name)
        operation = self.history.write(register, value, is_refused=is_refused)
        try:
            status, reply = await self.server.call(method, target, body)
        except (aiohttp.ClientError, OSError):
            return False
        if status == UNAVAILABLE:
            return False  # perhaps it was stored all the same
        assert status in {OK, DURABLE}, (status, reply)
        operation.write_id = reply["write_id"]
        operation.returned = self.history.now()
        self.acknowledged.append(operation)
        return True

    async def patch(self, name: str, value: Any, field_name: str | None = None) -> bool:
        return await self.write(field_name or name, value, "PATCH", self.target, {name: value})

    async def put_port(self, port: int) -> bool:
        port_id = global_port_id("op", port)
        uri = result_uri(self.workflow_id, self.execution_id, port_id)
        target, body = f"{self.target}/ports/{port_id}", {"result_uri": uri}
        return await self.write("uri", uri, "PUT", target, body, port_id)

    async def set_size(self, port: int, size: int) -> bool:
        port_id = global_port_id("op", port)
        body = {"result_bytes": size}
        target = f"{self.target}/ports/{port_id}"
        return await self.write("size", size, "PATCH", target, body, port_id)

    async def get(self, target: str) -> tuple[int, int, Any] | None:
        """The time of the call, status and body; None without a response of the sidecar's."""
        called = self.history.now()
        try:
            status, body = await self.server.call("GET", target)
        except (aiohttp.ClientError, OSError):
            return None
        return None if status == UNAVAILABLE else (called, status, body)

    async def read_execution(self) -> None:
        if (got := await self.get(self.target)) is None:
            return
        called, status, row = got
        assert status == OK, row
        returned = self.history.now()
        for column, name in (("name",) * 2, ("status",) * 2, ("runtime_stats_bytes", "stats")):
            self.history.read((self.execution_id, "", name), row[column], called, returned)

    async def read_uris(self, ports: int) -> None:
        if (got := await self.get(f"{self.target}/uris")) is None:
            return
        called, status, registry = got
        assert status == OK, registry
        returned = self.history.now()
        rows = {row["global_port_id"]: row for row in registry["results"]}
        for port in range(ports):
            port_id = global_port_id("op", port)
            row = rows.get(port_id, {"uri": None, "result_bytes": 0})
            key = (self.execution_id, port_id)
            self.history.read((*key, "uri"), row["uri"], called, returned)
            self.history.read((*key, "size"), row["result_bytes"], called, returned)

    async def read_result_uri(self, port: int) -> None:
        got = await self.get(f"{self.target}/result-uri?operator_id=op&port_id={port}")
        if got is None:
            return
        called, status, body = got
        assert status in {OK, NOT_FOUND}, body
        register = (self.execution_id, global_port_id("op", port), "uri")
        self.history.read(register, body.get("uri"), called, self.history.now())

    async def read_state(self, operation: Operation) -> str | None:
        assert operation.write_id is not None
        if (got := await self.get(f"/v1/writes/{operation.write_id}")) is None:
            return None
        called, status, body = got
        assert status in {OK, NOT_FOUND}, body
        state = body["state"] if status == OK else None
        returned = self.history.now()
        self.history.saw_state(operation.write_id, state, called, returned)
        if state == "refused":
            operation.refused_by = min(returned, operation.refused_by or NEVER)
        return state

    async def read_list(self, state: str | None) -> None:
        query = f"?limit={LIST_MAX}" + (f"&state={state}" if state is not None else "")
        if (got := await self.get(f"/v1/writes{query}")) is None:
            return
        called, status, body = got
        assert status == OK, body
        listed = [(write["write_id"], write["state"]) for write in body["writes"]]
        returned = self.history.now()
        asked = state if state is not None or len(listed) < LIST_MAX else "incomplete"
        self.history.saw_list(asked, listed, called, returned)

    # Clients

    async def pause(self) -> None:
        await asyncio.sleep(self.chance.random() * PAUSE_S)

    async def write_names(self, writer: int, count: int) -> None:
        for number in range(count):
            refused = self.can_be_refused and self.chance.random() < 0.2
            await self.patch("name", f"{REFUSED_PREFIX if refused else 'name'}-{writer}-{number}")
            await self.pause()

    async def write_statuses(self, count: int) -> None:
        for _ in range(count):
            await self.patch("status", self.chance.choice(["RUNNING", "PAUSED"]))
            await self.pause()

    async def write_sizes(self, writer: int, count: int) -> None:
        for number in range(count):
            size = 1 + writer + 10 * number
            await self.patch("runtime_stats_bytes", size, "stats")
            await self.pause()

    async def write_ports(self, ports: int) -> None:
        for port in range(ports):
            if await self.put_port(port):
                await self.pause()
                for size in (1, 2):
                    await self.set_size(port, size)
            await self.pause()

    async def read(self, ports: int, count: int) -> None:
        for _ in range(count):
            match self.chance.randrange(7):
                case 0 | 1:
                    await self.read_execution()
                case 2:
                    await self.read_uris(ports)
                case 3:
                    await self.read_result_uri(self.chance.randrange(ports))
                case 4 | 5 if self.acknowledged:
                    await self.read_state(self.chance.choice(self.acknowledged[-12:]))
                case _:
                    states = [None, "durable", "committed", "refused"]
                    await self.read_list(self.chance.choice(states))
            await self.pause()

    async def all(self, *, writes: int, reads: int, ports: int = 3) -> None:
        """All clients at once, then the run's end."""
        async with asyncio.TaskGroup() as clients:
            for writer in range(2):
                clients.create_task(self.write_names(writer, writes))
                clients.create_task(self.write_sizes(writer, writes // 2))
            clients.create_task(self.write_statuses(writes // 2))
            clients.create_task(self.write_ports(ports))
            for _ in range(4):
                clients.create_task(self.read(ports, reads))
        await self.patch("status", "COMPLETED")
        await self.read_execution()
        await self.read_uris(ports)
