"""The response cache against a model: random reads, writes, outages, grants and evictions.

The model has to allow every response; and whenever the response cache serves one, the application
must send the same, from its value cache, to the same request right after.
"""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.unit.sidecar.read_fixtures import (
    ACCESS_TTL_S,
    EXECUTION_CACHE_TTL_S,
    STALE_S,
    WORKFLOW,
    World,
    open_world,
)
from tests.unit.sidecar.server_fixtures import HttpClient, Reply, Served, get, served

EID, OTHER_WORKFLOW = 7, 8
TOKENS = ("a", "b")
REGISTRY_TTL_S = 60.0
URIS, ROW = f"/v1/executions/{EID}/uris", f"/v1/executions/{EID}"
LATEST = f"/v1/workflows/{WORKFLOW}/executions/latest"


@dataclass
class History:
    """A fact that others change, and when."""

    values: list[tuple[float, Any]]

    def set(self, now: float, value: Any) -> None:
        self.values.append((now, value))

    def within(self, since: float) -> list[Any]:
        """What it was at any time from `since` on."""
        older = [value for at, value in self.values if at <= since]
        return older[-1:] + [value for at, value in self.values if at > since]


@dataclass
class Model:
    """What may be answered. Others own one port and the log's place, the sidecar the name and
    another port: its own writes must be seen at once, theirs within the terms of the docs."""

    now: float
    foreign_uri: History = field(init=False)
    foreign_log: History = field(init=False)
    may_read: dict[str, History] = field(init=False)
    down_since: float | None = None
    name: str = "a run"
    own_uri: str | None = None

    def __post_init__(self) -> None:
        self.foreign_uri = History([(0.0, None)])
        self.foreign_log = History([(0.0, None)])
        self.may_read = {token: History([(0.0, True)]) for token in TOKENS}

    def check(self, target: str, token: str, reply: Reply) -> None:
        if reply.status == 503:
            assert self.down_since is not None
            assert reply.header("Retry-After")
            return
        is_stale = reply.header("X-Cache") == "stale"
        assert not is_stale or self.down_since is not None
        beyond_s = STALE_S if self.down_since is not None else 0.0
        allowed = self.may_read[token].within(self.now - ACCESS_TTL_S - beyond_s)
        if reply.status == 404:
            assert False in allowed
            return
        assert reply.status == 200
        assert True in allowed, "a response beyond the grant's term"
        response = msgspec.json.decode(reply.body)
        # A stale value is at most as old as the grant that allows it may be.
        late_s = (REGISTRY_TTL_S if target == URIS else EXECUTION_CACHE_TTL_S) + (
            1e9 if is_stale else 0.0
        )
        if target == URIS:
            found = {row["global_port_id"]: row["uri"] for row in response["results"]}
            assert found.get(OWN_PORT) == self.own_uri, "an acknowledged write was not seen"
            assert found.get(FOREIGN_PORT) in self.foreign_uri.within(self.now - late_s)
        else:
            assert response["name"] == self.name, "an acknowledged write was not seen"
            assert response["log_location"] in self.foreign_log.within(self.now - late_s)


def port(operator: str) -> str:
    return f"(logicalOpId={operator},layerName=main,portId=0,isInternal=false,isInput=false)"


OWN_PORT, FOREIGN_PORT = port("own"), port("foreign")

SPOILERS = st.one_of(
    st.tuples(st.sampled_from(["rename", "put", "deliver", "refuse", "evict", "reset"])),
    st.tuples(st.sampled_from(["foreign-uri", "foreign-log", "down", "up"])),
    st.tuples(st.sampled_from(["grant", "revoke"]), st.sampled_from(TOKENS)),
    st.tuples(st.just("later"), st.sampled_from([0.5, 1.5, 2.0, 31.0, 60.0, 700.0])),
)
STEPS = st.lists(
    st.tuples(
        st.lists(SPOILERS, min_size=1, max_size=3),
        st.sampled_from([URIS, ROW, LATEST]),
        st.sampled_from(TOKENS),
        st.booleans(),
    ),
    min_size=3,
    max_size=12,
)
READINGS = 3
"""After each change: from central, from the value cache, from the response cache."""


class Play:
    """Applies each step to the world and to the model, and checks every response."""

    def __init__(self, world: World, server: Served, fast: HttpClient, plain: HttpClient) -> None:
        self.world, self.server, self.fast, self.plain = world, server, fast, plain
        self.model = Model(world.clock.now_s)
        self.waiting: list[tuple[str, str]] = []
        self.number = 0
        self.cached_count = 0

    async def step(self, kind: str, *args: Any) -> None:
        world, model, central = self.world, self.model, self.world.central
        self.number += 1
        if kind == "rename":
            await world.write(EID, "update_execution", name=f"name {self.number}")
            self.waiting.append(("name", model.name))
            model.name = f"name {self.number}"
        elif kind == "put" and model.own_uri is None:
            await world.put_result(EID, OWN_PORT, f"vfs:///{self.number}")
            self.waiting.append(("own_uri", ""))
            model.own_uri = f"vfs:///{self.number}"
        elif kind == "deliver" and not central.is_down:
            await world.deliver()
            self.waiting.clear()
        elif kind == "refuse" and not central.is_down:
            await world.deliver(refused=True)
            for name, before in reversed(self.waiting):
                setattr(model, name, before or None)
            self.waiting.clear()
        elif kind == "evict":
            for execution_id in range(100, 140):
                await self.plain.request(
                    get(f"/v1/executions/{execution_id}/uris", token="evictor")
                )
        elif kind == "reset":
            world.reads.invalidate(WORKFLOW, [EID])
        elif kind == "foreign-uri":
            uri = f"vfs:///foreign/{self.number}"
            central.registries[EID].results[FOREIGN_PORT] = (uri, 0)
            model.foreign_uri.set(model.now, uri)
        elif kind == "foreign-log":
            central.rows[EID].log_location = f"log {self.number}"
            model.foreign_log.set(model.now, f"log {self.number}")
        elif kind in {"down", "up"}:
            central.is_down = kind == "down"
            model.down_since = model.now if central.is_down else None
        elif kind in {"grant", "revoke"}:
            (central.readers.add if kind == "grant" else central.readers.discard)(
                (args[0], WORKFLOW)
            )
            model.may_read[args[0]].set(model.now, kind == "grant")
        elif kind == "later":
            world.clock.now_s += args[0]
            model.now = world.clock.now_s

    async def read(self, target: str, token: str, traced: bool) -> None:
        trace = (f"traceparent: 00-{self.number:032x}-{self.number:016x}-01",) if traced else ()
        seen_before = self.server.to_aiohttp
        reply = await self.fast.request(get(target, *trace, token=token))
        self.model.check(target, token, reply)
        if self.server.to_aiohttp == seen_before:
            self.cached_count += 1
            calls = len(self.world.central.calls)
            oracle = await self.plain.request(get(target, token=token))
            assert reply.comparable() == oracle.comparable(), "the application's response differs"
            assert oracle.header("X-Cache") == "hit"
            assert len(self.world.central.calls) == calls


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=set(Phase) - {Phase.shrink},  # each example has a spool of its own: minutes
)
@given(STEPS)
def test_no_response_is_served_that_the_application_would_not_send(steps: list[Any]) -> None:
    async def play() -> None:
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            world = await stack.enter_async_context(open_world(Path(folder), max_bytes=15_000))
            world.central.readers |= {(token, WORKFLOW) for token in (*TOKENS, "evictor")}
            for execution_id in (EID, *range(100, 140)):
                world.central.add(execution_id, WORKFLOW if execution_id == EID else OTHER_WORKFLOW)
            world.central.readers.add(("evictor", OTHER_WORKFLOW))
            await world.bind(EID, "writer", created_here=False)
            server = await stack.enter_async_context(served(world, response_cache=True))
            plain = await stack.enter_async_context(served(world, response_cache=False))
            player = Play(world, server, await server.connect(), await plain.connect())
            for target, token in product((URIS, ROW, LATEST), TOKENS):
                await player.read(target, token, False)
            for spoilers, target, token, traced in steps:
                for spoiler in spoilers:
                    await player.step(*spoiler)
                for _ in range(READINGS):
                    await player.read(target, token, traced)

    asyncio.run(play())
