"""Run tokens: what the computing unit holds for one run in place of its user's token (ADR 69).

    computing unit            sidecar                              central
    create, user's token ---> create ---------------------------->  execution, binding
                              exchange, signed ------------------>  the binding is live
                              JWT, in memory  <-------------------  JWT of minutes (ADR 68)
         <------- run token   digest, in the spool
    read, run token --------> its grant, the cache, else JWT ---->  JWT, source; the user's grants
    write, run token -------> its grant, the spool, a batch ----->  the binding

The run token is random and good at this sidecar only, for one execution, while its binding is here:
it outlives a restart and never reaches central. The JWT never reaches the computing unit. It is
exchanged for the binding, at create and again at half its life, for as long as central finds the
binding live: so revoking the binding, the grants or the role ends the reads of a run token too.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from sidecar.problems import CentralUnavailable, UpstreamProblem
from sidecar.spool.bindings import NO_EXPIRY
from sidecar.upstream.client import CentralResponse
from sidecar.upstream.single_flight import SingleFlight

PREFIX = "run_"
RENEWAL_PERIOD_S = 5.0
"""How often tokens that are due are renewed. Central's live for 30 s at least."""
RENEWAL_SHARE = 0.5
"""Of a token's life, after which it is renewed: so a run is read for as long after its end."""
REFUSED_S, UNAVAILABLE_S = 10.0, 1.0
"""How long a failed exchange stands for the next ones: reads of a run that central refuses must
not each become a call to central, on the renewals' own connections."""
UNAUTHORIZED = 401
NOT_BOUND = "not-bound"
OTHER_SCOPE = "run-token-scope"
"""Of central's token: its execution is that of the call, so that the source is another."""

_RUN_TOKEN = re.compile(r"run_([0-9]{1,18})_[A-Za-z0-9_\-]{43}")


def new_run_token(execution_id: int) -> str:
    return f"{PREFIX}{execution_id}_{secrets.token_urlsafe(32)}"


def run_named_by(token: str) -> int | None:
    """The execution that a run token names, 0 for a malformed one; None for a user's token."""
    if not token.startswith(PREFIX):
        return None
    match = _RUN_TOKEN.fullmatch(token)
    return 0 if match is None else int(match.group(1))


class Exchange(Protocol):
    async def __call__(self, execution_id: int) -> tuple[str, float]:
        """Central's token for a run, and for how many seconds it is good. Raises central's
        problems, and `CentralUnavailable`."""


@dataclass(frozen=True, slots=True)
class _Exchanged:
    """Central's token, by the monotonic clock."""

    token: str
    renew_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class _Failed:
    problem: CentralUnavailable | UpstreamProblem
    until: float


class RunTokens:
    """Central's tokens of the runs here. Raises the problems of the exchange."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._exchange = exchange
        self._monotonic = monotonic
        self._sleep = sleep
        self._exchanged: dict[int, _Exchanged] = {}
        self._failed: dict[int, _Failed] = {}
        self._exchanges: SingleFlight[str] = SingleFlight()
        self.held: Callable[[], Collection[int]] = tuple
        """The runs whose leases are renewed here."""

    @property
    def count(self) -> int:
        return len(self._exchanged)

    async def read(
        self, execution_id: int, send: Callable[[str], Awaitable[CentralResponse]]
    ) -> CentralResponse:
        """`send` with central's token of the run. Its expiry is not the run token's, which has
        none."""
        token = await self._current(execution_id)
        try:
            reply = await send(token)
        except UpstreamProblem as problem:
            if problem.status != UNAUTHORIZED and problem.slug != OTHER_SCOPE:
                raise
            # Its signing key is gone, clocks differ, or it was issued to this sidecar's last key: a
            # new one is as good as a renewal.
            self._drop(execution_id, token)
            reply = await send(await self._current(execution_id))
        return replace(reply, token_expires_at=NO_EXPIRY)

    async def renew(self, execution_id: int) -> str:
        """A new token from central. Concurrent renewals of a run are one."""
        return await self._exchanges.do(execution_id, lambda: self._renew(execution_id))

    async def keep_renewed(self, runs: Callable[[], Iterable[int]]) -> None:
        """Renews the tokens of `runs` that are due while their leases are held, until cancelled.
        Others are forgotten when they expire."""
        while True:
            held = set(self.held())
            for execution_id in runs():
                if execution_id in held and self._is_due(execution_id):
                    try:
                        await self.renew(execution_id)
                    except UpstreamProblem:
                        continue  # of this run alone
                    except CentralUnavailable:
                        break
            self._forget_expired()
            await self._sleep(RENEWAL_PERIOD_S)

    def on_lost(self, execution_id: int) -> None:
        """Central has bound the run to another source, or has revoked its binding."""
        self._exchanged.pop(execution_id, None)

    def _is_due(self, execution_id: int) -> bool:
        known = self._exchanged.get(execution_id)
        return known is None or known.renew_at <= self._monotonic()

    async def _current(self, execution_id: int) -> str:
        known = self._exchanged.get(execution_id)
        if known is not None and self._monotonic() < known.expires_at:
            return known.token
        return await self.renew(execution_id)

    async def _renew(self, execution_id: int) -> str:
        failed = self._failed.get(execution_id)
        if failed is not None and self._monotonic() < failed.until:
            raise failed.problem.with_traceback(None)
        try:
            token, life_s = await self._exchange_held(execution_id)
        except (CentralUnavailable, UpstreamProblem) as problem:
            stands_s = UNAVAILABLE_S if isinstance(problem, CentralUnavailable) else REFUSED_S
            self._failed[execution_id] = _Failed(problem, self._monotonic() + stands_s)
            raise
        now = self._monotonic()
        exchanged = _Exchanged(token, now + life_s * RENEWAL_SHARE, now + life_s)
        self._exchanged[execution_id] = exchanged
        return token

    async def _exchange_held(self, execution_id: int) -> tuple[str, float]:
        """There are two kinds of `not-bound`. While the lease is renewed here it has lapsed in an
        outage, and the next renewal revives it or says that the binding is lost; else it is lost.
        """
        try:
            return await self._exchange(execution_id)
        except UpstreamProblem as problem:
            if problem.slug != NOT_BOUND or execution_id not in self.held():
                raise
            raise CentralUnavailable(
                "the lease of the run is not renewed yet", retry_after_s=1
            ) from problem

    def _drop(self, execution_id: int, token: str) -> None:
        known = self._exchanged.get(execution_id)
        if known is not None and known.token == token:
            del self._exchanged[execution_id]

    def _forget_expired(self) -> None:
        now = self._monotonic()
        self._exchanged = {eid: t for eid, t in self._exchanged.items() if t.expires_at > now}
        self._failed = {eid: f for eid, f in self._failed.items() if f.until > now}
