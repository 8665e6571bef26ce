"""Calls to central over real HTTP: retries, and the classification of responses."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from nacl.signing import SigningKey

from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, RateLimited, UpstreamProblem
from sidecar.spool.entry import Batch
from sidecar.upstream import client
from sidecar.upstream.central_api import EXECUTIONS_PER_CALL, Central
from sidecar.upstream.client import CallContext, CentralClient, CentralResponse, open_session
from sidecar.upstream.probe import MIN_FAILURES, CentralProbe
from sidecar.upstream.source_identity import SourceIdentity, SourceKey
from tests.unit.sidecar.delivery_fixtures import until

PROBLEM = "application/problem+json"


def response(
    status: int = 200,
    body: str | bytes = "{}",
    media_type: str = "application/json",
    **headers: str,
) -> web.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    content = body.encode() if isinstance(body, str) else body
    return web.Response(status=status, body=content, content_type=media_type, headers=names)


def problem(status: int, slug: str, **headers: str) -> web.Response:
    return response(status, f'{{"type":"{slug}","detail":"d"}}', PROBLEM, **headers)


@dataclass
class Peer:
    """A scripted server, then 200 `{}` (None hangs), and a client of it."""

    script: list[web.Response | None] = field(default_factory=list)
    calls: list[web.Request] = field(default_factory=list)
    now_s: float = 100.0
    pauses_s: list[float] = field(default_factory=list)
    client: CentralClient = field(init=False)
    probe: CentralProbe = field(init=False)

    async def serve(self, request: web.Request) -> web.Response:
        await request.read()
        self.calls.append(request)
        reply = self.script.pop(0) if self.script else response()
        if reply is None:
            await asyncio.Event().wait()
        assert reply is not None
        return reply

    async def pause(self, seconds: float) -> None:
        self.pauses_s.append(seconds)

    async def call(
        self, *, single_attempt: bool = False, user_id: int | None = None
    ) -> CentralResponse:
        return await self.client.call(
            "test",
            "POST",
            "/v1/x?y=1",
            context=CallContext(token="t", user_id=user_id),
            body=b"{}",
            idempotency_key="k",
            single_attempt=single_attempt,
        )


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    async with AsyncExitStack() as stack:
        peer = Peer()
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", peer.serve)
        server = await stack.enter_async_context(TestServer(app))
        session, metrics = await stack.enter_async_context(open_session()), Metrics()
        peer.probe = CentralProbe(session, str(server.make_url("/")), metrics)
        peer.client = CentralClient(
            session,
            str(server.make_url("/")),
            SourceIdentity.from_volume(tmp_path, "central"),
            metrics,
            timeout_s=0.5,
            monotonic=lambda: peer.now_s,
            uniform=lambda low, high: high,
            sleep=peer.pause,
        )
        yield peer


@pytest.mark.parametrize(
    "fault",
    [
        problem(503, "database-unavailable"),
        response(502, "<h1>Bad Gateway</h1>", "text/html"),
        response(200, "<h1>Please sign in</h1>", "text/html"),
        problem(504, "database-unavailable"),
    ],
    ids=["503", "502 page", "200 page", "504"],
)
async def test_a_failed_call_is_retried_once_with_the_same_key(
    peer: Peer, fault: web.Response
) -> None:
    peer.script = [fault]

    reply = await peer.call()

    assert reply.status == 200
    assert len(peer.calls) == 2
    assert {call.headers["Idempotency-Key"] for call in peer.calls} == {"k"}
    assert peer.pauses_s == [0.1]  # the maximum of the jitter
    assert peer.client._metrics.upstream_retries.value == 1


async def test_a_response_is_dated_by_the_attempt_that_got_it(peer: Peer) -> None:
    asked_at = [10.0, 20.0]
    peer.client._wall_clock = lambda: asked_at.pop(0) if len(asked_at) > 1 else asked_at[0]
    peer.script = [problem(503, "database-unavailable")]

    reply = await peer.call()

    assert reply.asked_at == 20.0


async def test_a_response_with_retry_after_is_not_retried(peer: Peer) -> None:
    peer.script = [problem(503, "database-unavailable", Retry_After="7")]

    with pytest.raises(CentralUnavailable) as raised:
        await peer.call()

    assert (raised.value.has_retry_after, raised.value.retry_after_s) == (True, 7)
    assert len(peer.calls) == 1


def succeeded(successor_id: str) -> web.Response:
    body = {"type": "source-succeeded", "detail": "d", "successor_id": successor_id}
    return response(409, json.dumps(body), PROBLEM)


@pytest.mark.parametrize("single_attempt", [False, True])
async def test_a_call_refused_for_a_replaced_key_is_sent_again_under_the_new_one(
    peer: Peer, single_attempt: bool
) -> None:
    identity = peer.client._identity
    next_key = identity.next_key = SourceKey(SigningKey.generate())
    peer.script = [succeeded(next_key.source_id)]

    reply = await peer.call(single_attempt=single_attempt)

    assert (reply.status, identity.source_id) == (200, next_key.source_id)
    assert len({call.headers["Sidecar-Assertion"].split(".")[0] for call in peer.calls}) == 2
    assert {call.headers["Idempotency-Key"] for call in peer.calls} == {"k"}


@pytest.mark.parametrize("has_next_key", [False, True])
async def test_a_key_replaced_by_a_foreign_one_is_no_reason_to_send_again(
    peer: Peer, has_next_key: bool
) -> None:
    identity = peer.client._identity
    old_id = identity.source_id
    if has_next_key:
        identity.next_key = SourceKey(SigningKey.generate())
    peer.script = [succeeded("somebody-elses-key")]

    with pytest.raises(UpstreamProblem, match="d"):
        await peer.call()

    assert (len(peer.calls), identity.source_id) == (1, old_id)


async def test_a_proxys_413_says_nothing_about_central(peer: Peer) -> None:
    for _ in range(10):
        peer.script = [response(413, "<h1>Too Large</h1>", "text/html")]
        with pytest.raises(CentralUnavailable) as raised:
            await peer.call(single_attempt=True)
        assert raised.value.response_status == 413

    assert not peer.client._circuit_of(None).is_open


async def test_a_retry_shares_the_deadline_of_its_call(peer: Peer) -> None:
    peer.script = [problem(503, "database-unavailable"), None]

    async def slow_pause(seconds: float) -> None:
        peer.now_s += 0.45

    peer.client._sleep = slow_pause
    loop = asyncio.get_running_loop()
    started_at = loop.time()

    with pytest.raises(CentralUnavailable):
        await peer.call()

    assert loop.time() - started_at < 0.4  # the retry had 0.05 s left, not 0.5
    assert len(peer.calls) == 2


async def test_a_call_past_its_deadline_is_not_retried(peer: Peer) -> None:
    peer.script = [problem(503, "database-unavailable")]
    peer.client._uniform = lambda low, high: 0.6

    with pytest.raises(CentralUnavailable):
        await peer.call()

    assert len(peer.calls) == 1


async def test_a_rate_limit_is_relayed_and_does_not_open_the_circuit(peer: Peer) -> None:
    peer.script = [problem(429, "rate-limited", Retry_After="3") for _ in range(20)]

    for _ in range(20):
        with pytest.raises(UpstreamProblem) as raised:
            await peer.call()

    assert raised.value.status == 429
    assert raised.value.headers["Retry-After"] == "3"
    assert raised.value.retry_after_s == 3
    assert not peer.client._circuit_of(None).is_open


async def test_an_open_circuit_rejects_at_once_and_allows_one_probe(peer: Peer) -> None:
    peer.script = [response(500, "oops", "text/plain") for _ in range(6)]
    for _ in range(3):
        with pytest.raises(CentralUnavailable):
            await peer.call()
    sent = len(peer.calls)
    assert peer.client._circuit_of(None).is_open
    assert peer.client._metrics.circuits_opened.value == 1

    with pytest.raises(CentralUnavailable) as raised:
        await peer.call()
    assert len(peer.calls) == sent
    assert raised.value.retry_after_s > 0

    peer.script = []
    peer.now_s += 2.5
    assert (await peer.call()).status == 200
    assert not peer.client._circuit_of(None).is_open


async def test_a_users_open_circuit_is_not_anothers(peer: Peer) -> None:
    peer.script = [response(500, "oops", "text/plain") for _ in range(6)]
    for _ in range(3):
        with pytest.raises(CentralUnavailable):
            await peer.call(user_id=1)
    peer.script = []

    with pytest.raises(CentralUnavailable):
        await peer.call(user_id=1)
    replies = [await peer.call(user_id=user_id) for user_id in (2, None)]

    assert [reply.status for reply in replies] == [200, 200]


async def test_a_call_beyond_a_users_share_is_refused_and_says_nothing_of_central(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SLOT_TIMEOUT_S", 0.05)
    peer.client._timeout_s = 30.0
    peer.script = [None] * client.CONCURRENT_CALLS_PER_USER
    calls = [asyncio.create_task(peer.call(user_id=1)) for _ in peer.script]
    await until(lambda: len(peer.calls) == len(calls))

    refused = await asyncio.gather(
        *[peer.call(user_id=1) for _ in range(20)], return_exceptions=True
    )
    other = await peer.call(user_id=2)

    assert {type(problem) for problem in refused} == {RateLimited}
    assert not peer.client._circuit_of(1).is_open
    assert other.status == 200
    for call in calls:
        call.cancel()


# The probe


@pytest.mark.parametrize(
    "parts",
    [(503, '{"type":"database-unavailable"}', PROBLEM), (502, "<h1>Bad Gateway</h1>", "text/html")],
    ids=["database", "proxy"],
)
async def test_central_is_away_after_failed_probes_in_a_row_until_one_succeeds(
    peer: Peer, parts: tuple[int, str, str]
) -> None:
    fails = [True] * (MIN_FAILURES - 1) + [False] + [True] * MIN_FAILURES + [False]
    peer.script = [response(*parts) if fails_now else response() for fails_now in fails]

    seen = []
    for _ in fails:
        await peer.probe.check()
        seen.append(peer.probe.is_reachable)

    assert seen == [True] * (2 * MIN_FAILURES - 1) + [False, True]
    sent = {name for call in peer.calls for name in call.headers}
    assert not sent & {"Authorization", "Sidecar-Assertion"}


async def test_a_central_that_refuses_the_probe_is_reachable(peer: Peer) -> None:
    peer.script = [problem(503, "overloaded") for _ in range(MIN_FAILURES)]
    peer.script.append(problem(404, "no-such-route"))

    for _ in range(MIN_FAILURES + 1):
        await peer.probe.check()

    assert peer.probe.is_reachable


async def test_failed_calls_do_not_make_central_away(peer: Peer) -> None:
    peer.script = [problem(503, "database-unavailable") for _ in range(20)]

    for _ in range(10):
        with pytest.raises(CentralUnavailable):
            await peer.call(user_id=1)

    assert Central(peer.client, peer.client, peer.client, peer.probe).is_reachable


async def test_an_idle_sidecar_notices_that_central_is_back(peer: Peer) -> None:
    peer.script = [problem(503, "database-unavailable") for _ in range(MIN_FAILURES)]
    pauses_s: list[float] = []
    is_back = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses_s.append(seconds)
        if len(pauses_s) == MIN_FAILURES:
            assert not peer.probe.is_reachable
        if len(pauses_s) > MIN_FAILURES:
            is_back.set()
            await asyncio.Event().wait()

    peer.probe._sleep = sleep
    running = asyncio.create_task(peer.probe.run())
    await asyncio.wait_for(is_back.wait(), 20)
    running.cancel()

    assert peer.probe.is_reachable
    assert all(0.8 <= pause_s <= 1.2 for pause_s in pauses_s[:MIN_FAILURES])
    assert 4.0 <= pauses_s[-1] <= 6.0


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        ("<html>", "text/html"),
        ("{}", "application/json"),
        ('{"type":"about:blank"}', PROBLEM),
        ("[1]", PROBLEM),
        ("{", PROBLEM),
        ("[" * 100_000, PROBLEM),
        (b'{"type":"\xff"}', PROBLEM),
    ],
)
async def test_a_response_without_a_problem_of_centrals_is_from_an_unknown_server(
    peer: Peer, body: str | bytes, media_type: str
) -> None:
    peer.script = [response(403, body, media_type)]

    with pytest.raises(CentralUnavailable) as raised:
        await peer.call(single_attempt=True)

    assert raised.value.from_unknown_server


async def test_a_response_to_another_batch_settles_nothing(peer: Peer) -> None:
    peer.script = [response(200, '{"batch":8,"outcomes":[]}')]
    central = Central(peer.client, peer.client, peer.client, peer.probe)

    with pytest.raises(CentralUnavailable) as raised:
        await central.deliver(Batch("e", 7, "d", ()), 0)

    assert raised.value.from_unknown_server


@pytest.mark.parametrize(
    "headers",
    [
        {"Date": "Mon, 01 Jan 2024 00:00:00 +99999999999999999"},
        {"Date": "Mon, 01 Jan 0001 00:00:00 -0000"},
        {"Retry-After": "9" * 5000},
    ],
    ids=["zone out of range", "year out of range", "5,000 digits"],
)
@pytest.mark.parametrize("slug", ["database-unavailable", "rate-limited"])
async def test_invalid_headers_only_fail_the_call(
    peer: Peer, headers: dict[str, str], slug: str
) -> None:
    status = 429 if slug == "rate-limited" else 503
    peer.script = [problem(status, slug, **headers)]

    with pytest.raises((CentralUnavailable, UpstreamProblem)):
        await peer.call(single_attempt=True)


async def test_more_leases_than_a_call_takes_are_renewed_in_several_calls(peer: Peer) -> None:
    run_ids = list(range(2 * EXECUTIONS_PER_CALL + 1))
    leases = '{"lease_s": 90, "lost": [{"execution_id": %d, "reason": "ended"}]}'
    peer.script = [response(body=leases % eid) for eid in (3, EXECUTIONS_PER_CALL, run_ids[-1])]
    central = Central(peer.client, peer.client, peer.client, peer.probe)

    renewed = await central.renew_leases(run_ids)

    sent = [(await call.json())["execution_ids"] for call in peer.calls]
    assert [len(ids) for ids in sent] == [EXECUTIONS_PER_CALL, EXECUTIONS_PER_CALL, 1]
    assert [eid for ids in sent for eid in ids] == run_ids
    assert [lease.execution_id for lease in renewed.lost] == [3, EXECUTIONS_PER_CALL, run_ids[-1]]


async def test_more_executions_than_a_call_takes_are_abandoned_in_several_calls(
    peer: Peer,
) -> None:
    run_ids = list(range(EXECUTIONS_PER_CALL + 1))
    peer.script = [response(body='{"closed": [1, 2]}'), response(body='{"closed": [5000]}')]
    central = Central(peer.client, peer.client, peer.client, peer.probe)

    assert await central.abandon(run_ids) == [1, 2, 5000]

    assert len(peer.calls) == 2
