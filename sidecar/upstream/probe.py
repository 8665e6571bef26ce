"""Whether central is reachable: the one source of that word.

    reachable --MIN_FAILURES failed probes in a row--> away
        ^---------------- one that succeeds ------------'

Values are shown by lapsed grants while central is away, so no user may have a part in the decision.
The probe has a connection of its own, carries no credentials and waits for nobody's share; the
failures of other calls say nothing here. It also runs while the sidecar is idle.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from sidecar.metrics import Metrics
from sidecar.upstream.client import problem_document

logger = logging.getLogger(__name__)

HEALTH_PATH = "/v1/health"
PERIOD_S = 5.0
"""Five hundred sidecars make a hundred of these calls per second, 2 % of a core of central's."""
FAILING_PERIOD_S = 1.0
JITTER = 0.2
TIMEOUT_S = 2.0
MIN_FAILURES = 3
"""A busy pod or a lost packet may fail one or two."""
DATABASE_UNAVAILABLE = "database-unavailable"
"""Central's problem while it can serve nobody. Any other (`overloaded`) shows that it works."""


class CentralProbe:
    """`run` until cancelled. Central counts as reachable until probes have failed."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        metrics: Metrics,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._session = session
        self._url = base_url.rstrip("/") + HEALTH_PATH
        self._metrics = metrics
        self._monotonic = monotonic
        self._sleep = sleep
        self._uniform = uniform
        self._failures = 0
        self._probed_at = monotonic()
        self.is_reachable = True

    @property
    def age_s(self) -> float:
        """Since the last probe has ended, or the start."""
        return self._monotonic() - self._probed_at

    async def run(self) -> None:
        while True:
            await self.check()
            period_s = FAILING_PERIOD_S if self._failures else PERIOD_S
            await self._sleep(period_s * self._uniform(1 - JITTER, 1 + JITTER))

    async def check(self) -> None:
        """One probe."""
        outcome = await self._outcome()
        self._probed_at = self._monotonic()
        self._metrics.upstream_requests.labels("health", outcome).inc()
        self._failures = 0 if outcome == "ok" else self._failures + 1
        is_reachable = self._failures == 0 or (self.is_reachable and self._failures < MIN_FAILURES)
        if is_reachable is not self.is_reachable:
            self.is_reachable = is_reachable
            logger.warning("central is reachable" if is_reachable else "central is away")

    async def _outcome(self) -> str:
        try:
            async with self._session.get(
                self._url,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            ) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError):
            return "unreachable"
        media_type = response.headers.get("Content-Type", "")
        problem = problem_document(media_type, body)
        if problem is not None:
            return "unavailable" if problem["type"] == DATABASE_UNAVAILABLE else "ok"
        is_centrals = response.status == 200 and media_type.startswith("application/json")
        return "ok" if is_centrals else "unavailable"
