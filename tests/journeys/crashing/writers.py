"""Computing units that go on writing, whatever happens to their sidecar."""

import asyncio
import itertools
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from dev.bench.raw_http_client import RawHttpClient, RawResponse
from dev.world import WORLD
from kit.texera.uris import GlobalPortId, UriMinter
from tests.journeys.crashing.history import History, Kind, Write

RETRY_S = 0.005
CREATED, ACCEPTED, UNAVAILABLE = 201, 202, 503
FLUSH_TIMEOUT_S = 60
NEWEST = 6
"""How many of a sidecar's executions are written to at one time."""
KINDS = [Kind.RESULT] * 4 + [Kind.PORT] * 2 + [Kind.SIZE] * 3


class Place(Protocol):
    """Where to write, by whose token, and to which executions."""

    @property
    def url(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def execution_ids(self) -> list[int]: ...


class Writer:
    """One connection to one sidecar. The next write goes out when the last one was answered."""

    def __init__(
        self,
        name: str,
        place: Place,
        history: History,
        chance: random.Random,
        *,
        longest_pause_s: float,
        create_share: float,
    ) -> None:
        self._name = name
        self.place = place
        self._history = history
        self._chance = chance
        self._longest_pause_s = longest_pause_s
        self._create_share = create_share
        self._numbers = itertools.count(1)
        self._ports: dict[int, str] = {}
        self._create_key: str | None = None
        self.stopping = False
        self.acknowledged_count = 0
        self.is_refused_at_times = False
        """Whether the sidecar's volume is unusable, so that it may refuse."""

    async def run(self) -> None:
        """Writes until stopped, on a new connection whenever one breaks.

        A create whose answer did not come is repeated with its key; a write is not.
        """
        while self._create_key or not self.stopping:
            try:
                async with RawHttpClient(self.place.url, self.place.token) as line:
                    while self._create_key or not self.stopping:
                        await self._create(line)
                        execution_ids = self.place.execution_ids[-NEWEST:]
                        await self._write(line, self._chance.choice(execution_ids))
                        await asyncio.sleep(self._chance.uniform(0, self._longest_pause_s))
            except OSError:
                await asyncio.sleep(RETRY_S)  # nobody announces that the sidecar is back

    async def _create(self, line: RawHttpClient) -> None:
        if self._create_key is None and self._chance.random() < self._create_share:
            self._create_key = f"{self._name}-{next(self._numbers)}"
        if self._create_key is not None:
            self.place.execution_ids.append(await create_execution(line, self._create_key))
            self._create_key = None

    async def _write(self, line: RawHttpClient, execution_id: int) -> None:
        kind, number = self._chance.choice(KINDS), next(self._numbers)
        port = self._ports.get(execution_id)
        path = f"/v1/executions/{execution_id}"
        if kind is Kind.RESULT:
            value = f"{self._name}-{number}"
            write = self._history.send(execution_id, kind, "", value)
            await self._put(line, write, "PATCH", path, {"result": value})
        elif kind is Kind.PORT or port is None:
            port = str(GlobalPortId(f"{self._name}x{number}", "main", 0, False, False))
            uri = UriMinter(WORLD.workflow_id, execution_id).result_uri(port)
            write = self._history.send(execution_id, Kind.PORT, port, uri)
            if await self._put(line, write, "PUT", f"{path}/ports/{port}", {"result_uri": uri}):
                self._ports[execution_id] = port
        else:
            write = self._history.send(execution_id, kind, port, str(number))
            await self._put(line, write, "PATCH", f"{path}/ports/{port}", {"result_bytes": number})

    async def _put(
        self, line: RawHttpClient, write: Write, method: str, path: str, body: dict[str, Any]
    ) -> bool:
        """Whether it was acknowledged."""
        try:
            response = await line.send(line.request(method, path, body))
        except OSError:
            self._history.give_up(write)
            raise
        if response.status == UNAVAILABLE and self.is_refused_at_times:
            self._history.give_up(write)  # it may have been stored all the same
            return False
        _settle(self._history, write, response)
        self.acknowledged_count += 1
        return True


@asynccontextmanager
async def writing(writers: Sequence[Writer]) -> AsyncIterator[None]:
    """They write while the block runs."""
    async with asyncio.TaskGroup() as group:
        for writer in writers:
            writer.stopping = False
            group.create_task(writer.run())
        yield
        for writer in writers:
            writer.stopping = True


async def create_executions(place: Place, count: int) -> None:
    """New executions, bound to the sidecar."""
    async with RawHttpClient(place.url, place.token) as line:
        for _ in range(count):
            place.execution_ids.append(await create_execution(line, secrets.token_hex(8)))


async def create_execution(line: RawHttpClient, key: str) -> int:
    """Repeated with its key while central does not respond in time, as on a busy machine."""
    new = {
        "workflow_id": WORLD.workflow_id,
        "computing_unit_id": WORLD.computing_unit_id,
        "environment_version": "test",
    }
    request = line.request("POST", "/v1/executions", new, f"Idempotency-Key: {key}\r\n")
    while (response := await line.send(request)).status == UNAVAILABLE:  # noqa: ASYNC110
        await asyncio.sleep(RETRY_S)
    assert response.status == CREATED, response.body
    return int(response.json()["execution_id"])


async def finish(place: Place, history: History) -> None:
    """Ends the executions and waits until everything has been delivered."""
    async with RawHttpClient(place.url, place.token) as line:
        for execution_id in place.execution_ids:
            write = history.send(execution_id, Kind.END, "", "COMPLETED")
            end = line.request("PATCH", f"/v1/executions/{execution_id}", {"status": "COMPLETED"})
            _settle(history, write, await line.send(end))
        flushed = await line.send(line.request("POST", f"/v1/flush?timeout={FLUSH_TIMEOUT_S}"))
    assert flushed.status == 200, flushed.body


def _settle(history: History, write: Write, response: RawResponse) -> None:
    assert response.status == ACCEPTED, response.body
    history.acknowledge(write, response.json()["write_id"])
