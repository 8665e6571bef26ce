"""Random writes, with and without the fast path: equal responses, and equal spools."""

import asyncio
import re
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sidecar.problems import SpoolUnavailable
from tests.unit.sidecar.read_fixtures import World, open_world
from tests.unit.sidecar.server_fixtures import HttpClient, Reply, Served, served
from tests.unit.sidecar.write_requests import (
    EID,
    OTHER_EID,
    UNBOUND_EID,
    create_binding,
    named,
    patch,
)

BODIES = st.sampled_from(
    [
        named("a name"),
        b'{"status":"RUNNING"}',
        b'{"status":"COMPLETED","result":"r"}',
        b'{"runtime_stats_bytes":5}',
        b'{"status":"BOILING"}',
        b'{"name":"' + b"n" * 129 + b'"}',
        b'{"colour":1}',
        b"{}",
        b"{",
        b"",
        b"[]",
        b'{"name":"\\u0000"}',
        b'{"runtime_stats_uri":"vfs:///wid/1/eid/2/somebodyelse"}',
    ]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("patch"), st.sampled_from([EID, OTHER_EID, UNBOUND_EID]), BODIES),
        st.tuples(st.just("pieces"), st.just(EID), BODIES, st.floats(0.01, 0.99)),
        st.tuples(st.sampled_from(["forget", "bind", "break", "mend"]), st.just(EID)),
    ),
    min_size=4,
    max_size=24,
)


class Side:
    """One of two worlds with the same input: with the fast paths, or without."""

    def __init__(self, world: World, listener: Served, client: HttpClient) -> None:
        self.world, self.listener, self.client = world, listener, client
        self.is_broken = False
        self._append = world.spool.append

        async def append(new: Any) -> int:
            if self.is_broken:
                raise SpoolUnavailable("the spool's volume: played", retry_after_s=5)
            return await self._append(new)

        world.spool.append = append  # type: ignore[method-assign]

    async def step(self, kind: str, execution_id: int, body: bytes = b"", cut: float = 0.0) -> Any:
        if kind in {"patch", "pieces"}:
            request = patch(body, execution_id=execution_id)
            place = int(cut * len(request))
            await self.client.send(request[:place])
            return self._comparable(await self.client.request(request[place:]))
        if kind == "forget":
            self.world.spool.bindings.forget([execution_id])
        elif kind == "bind":
            await self.world.bind(execution_id, created_here=False)
        else:
            self.is_broken = kind == "break"
        return None

    def _comparable(self, reply: Reply) -> Any:
        spool_id = self.world.spool.spool_id.encode()
        reply.body = re.sub(spool_id + b"-", b"spool-", reply.body)
        return reply.comparable()

    async def written(self) -> list[Any]:
        entries = [await self.world.spool.waiting(eid) for eid in (EID, OTHER_EID)]
        return [msgspec.json.decode(entry.payload) for queue in entries for entry in queue]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=set(Phase) - {Phase.shrink},  # each example has two spools of its own
)
@given(STEPS)
def test_responses_and_spool_equal_those_without_the_fast_path(steps: list[Any]) -> None:
    async def play() -> None:
        async with AsyncExitStack() as stack:
            sides = []
            for response_cache in (True, False):
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                world = await stack.enter_async_context(open_world(Path(folder)))
                await create_binding(world)
                listener = await stack.enter_async_context(
                    served(world, response_cache=response_cache)
                )
                sides.append(Side(world, listener, await listener.connect()))
            for step in [("patch", EID, named("first")), *steps]:
                results = [await side.step(*step) for side in sides]
                assert results[0] == results[1], step
            written = [await side.written() for side in sides]
            assert written[0] == written[1]

    asyncio.run(play())
