"""When central's tokens of runs are exchanged, used, renewed and forgotten; and the unit's own, on
the fast paths."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sidecar.api.services import SERVICES
from sidecar.cache.access import token_digest
from sidecar.problems import CentralUnavailable, TokenInvalid, UpstreamProblem
from sidecar.spool.bindings import NO_EXPIRY, Grant
from sidecar.upstream.client import CallContext, CentralResponse
from sidecar.upstream.run_tokens import (
    REFUSED_S,
    RENEWAL_PERIOD_S,
    UNAVAILABLE_S,
    RunTokens,
    new_run_token,
    run_named_by,
)
from tests.unit.sidecar.read_fixtures import ACCESS_TTL_S, WORKFLOW, open_world, refusal
from tests.unit.sidecar.server_fixtures import app_of, get, served
from tests.unit.sidecar.write_requests import EID, create_binding, named, patch

LIFE_S = 300.0
RUN = 7
SECRET = "x" * 43


AWAY = CentralUnavailable("central is down", retry_after_s=1)
NOT_BOUND = refusal("not-bound", 403)


@dataclass
class Exchanging:
    """Central's exchange: numbered tokens, or the problem that it raises."""

    now_s: float = 1_000.0
    count: int = 0
    problem: CentralUnavailable | UpstreamProblem | None = None
    held: list[int] = field(default_factory=lambda: [RUN])
    refused: set[str] = field(default_factory=set)
    """Tokens that central's reads do not accept."""

    def __post_init__(self) -> None:
        self.tokens = RunTokens(self.exchange, monotonic=lambda: self.now_s, sleep=self._sleep)
        self.tokens.held = lambda: self.held
        self._steps = 0

    async def exchange(self, execution_id: int) -> tuple[str, float]:
        self.count += 1
        await asyncio.sleep(0)
        if self.problem is not None:
            raise self.problem
        return f"{execution_id}-{self.count}", LIFE_S

    async def read(self) -> str:
        """The token by which central was read."""
        used = ""

        async def send(token: str) -> CentralResponse:
            nonlocal used
            used = token
            if token in self.refused:
                raise refusal("token-invalid", 401)
            return CentralResponse(200, b"{}", 1, int(self.now_s + LIFE_S))

        reply = await self.tokens.read(RUN, send)
        assert reply.token_expires_at == NO_EXPIRY
        return used

    async def renew_for(self, seconds: float) -> None:
        """Runs the renewal loop so long."""
        self._steps = int(seconds / RENEWAL_PERIOD_S) + 1
        with pytest.raises(asyncio.CancelledError):
            await self.tokens.keep_renewed(lambda: [RUN])

    async def _sleep(self, seconds: float) -> None:
        self._steps -= 1
        if not self._steps:
            raise asyncio.CancelledError
        self.now_s += seconds


async def test_concurrent_reads_of_a_run_exchange_once_and_later_ones_not_at_all() -> None:
    central = Exchanging()

    used = await asyncio.gather(*(central.read() for _ in range(20)))
    central.now_s += LIFE_S - 1

    assert {*used, await central.read()} == {"7-1"}
    assert central.count == 1


async def test_an_expired_token_is_exchanged_before_it_is_used() -> None:
    central = Exchanging()
    await central.read()

    central.now_s += LIFE_S

    assert await central.read() == "7-2"


async def test_a_token_is_renewed_at_half_its_life() -> None:
    central = Exchanging()
    await central.renew_for(LIFE_S / 2 - RENEWAL_PERIOD_S)
    before = central.count

    await central.renew_for(RENEWAL_PERIOD_S)

    assert (before, central.count) == (1, 2)


async def test_a_run_whose_lease_is_not_held_is_not_renewed_and_its_token_used_to_its_end() -> None:
    central = Exchanging()
    await central.read()
    central.held = []

    await central.renew_for(LIFE_S - RENEWAL_PERIOD_S)
    used = await central.read()
    central.problem = NOT_BOUND
    central.now_s += RENEWAL_PERIOD_S

    assert used == "7-1"
    with pytest.raises(UpstreamProblem) as raised:
        await central.read()
    assert raised.value.slug == "not-bound"


async def test_a_lost_run_is_read_no_longer() -> None:
    central = Exchanging()
    await central.read()
    central.held, central.problem = [], NOT_BOUND

    central.tokens.on_lost(RUN)

    with pytest.raises(UpstreamProblem):
        await central.read()


async def test_a_lease_that_lapsed_in_an_outage_is_unavailable_and_not_refused() -> None:
    central = Exchanging(problem=NOT_BOUND)

    with pytest.raises(CentralUnavailable):
        await central.read()


@pytest.mark.parametrize(
    ("problem", "stands_s"), [(AWAY, UNAVAILABLE_S), (refusal("user-demoted", 403), REFUSED_S)]
)
async def test_a_failed_exchange_is_repeated_only_after_a_while(
    problem: CentralUnavailable | UpstreamProblem, stands_s: float
) -> None:
    central = Exchanging(problem=problem)
    for _ in range(50):
        with pytest.raises(type(problem)):
            await central.read()
    before, central.problem = central.count, None

    central.now_s += stands_s

    assert await central.read() == "7-2"
    assert before == 1


async def test_a_token_that_central_refuses_is_exchanged_anew_once() -> None:
    """Its signing key was removed."""
    central = Exchanging(refused={"7-1"})

    assert await central.read() == "7-2"
    central.refused = {"7-2", "7-3"}
    with pytest.raises(UpstreamProblem):
        await central.read()
    assert central.count == 3


async def test_an_outage_ends_the_round_of_renewals_and_a_refusal_only_that_of_its_run() -> None:
    for problem, expected in ((AWAY, 1), (refusal("user-demoted", 403), 3)):
        central = Exchanging(problem=problem, held=[1, 2, 3])
        central._steps = 1
        with pytest.raises(asyncio.CancelledError):
            await central.tokens.keep_renewed(lambda: [1, 2, 3])

        assert central.count == expected


async def test_expired_tokens_and_failures_are_forgotten() -> None:
    central = Exchanging(held=[])
    await central.read()
    central.now_s += LIFE_S
    central.problem = AWAY
    with pytest.raises(CentralUnavailable):
        await central.read()

    await central.renew_for(RENEWAL_PERIOD_S)

    assert central.tokens.count == 0
    assert not central.tokens._failed


@pytest.mark.parametrize(
    ("token", "named"),
    [
        (f"run_42_{SECRET}", 42),
        ("eyJhbGciOiJIUzI1NiJ9.e30.x", None),
        ("run_", 0),
        (f"run_42_{SECRET}x", 0),
        (f"run_\u0664\u0662_{SECRET}", 0),
        (f"run_{'9' * 19}_{SECRET}", 0),
    ],
)
def test_a_run_token_names_its_execution(token: str, named: int | None) -> None:
    assert run_named_by(token) == named


def test_no_two_run_tokens_are_alike_and_each_names_its_run() -> None:
    made = {new_run_token(RUN) for _ in range(100)}

    assert len(made) == 100
    assert {run_named_by(token) for token in made} == {RUN}


async def test_repeated_calls_by_a_run_token_bypass_the_application_until_it_ends(
    tmp_path: Path,
) -> None:
    async with open_world(tmp_path) as world, served(world, response_cache=True) as server:
        await create_binding(world)
        token = new_run_token(EID)
        grant = Grant(token_digest(token), EID, 1, NO_EXPIRY)
        await world.spool.bindings.record_grant(grant)
        world.central.readers.add((token, WORKFLOW))
        client = await server.connect()
        read = get(f"/v1/executions/{EID}/uris", token=token)
        write = patch(named("n")).replace(b"Bearer a", f"Bearer {token}".encode())

        reads = [await client.request(read) for _ in range(9)]
        reads_by_aiohttp = server.to_aiohttp
        writes = [await client.request(write) for _ in range(9)]
        writes_by_aiohttp = server.to_aiohttp - reads_by_aiohttp
        world.spool.bindings.forget([EID])
        refused = await client.request(write)
        world.clock.now_s += ACCESS_TTL_S
        unread = await client.request(read)

    assert {reply.status for reply in reads} == {200}
    assert {reply.status for reply in writes} == {202}
    assert reads[-1].header("X-Cache") == "hit"
    assert reads_by_aiohttp <= 3
    assert writes_by_aiohttp == 1
    assert (refused.status, unread.status) == (401, 401)


async def test_a_run_token_whose_binding_ends_during_the_call_is_not_sent_to_central(
    tmp_path: Path,
) -> None:
    async with open_world(tmp_path) as world:
        writes = app_of(world)[SERVICES].writes
        with pytest.raises(TokenInvalid):
            await writes.authorize(EID, CallContext(new_run_token(EID), run_id=EID))

    assert world.central.calls == []
