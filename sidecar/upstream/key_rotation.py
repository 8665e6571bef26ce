"""The key's rotation: a new key is made beside the old one, and takes its place at central.

    one key --too old, or asked for--> two keys on disk --central confirms--> calls by the new one
       ^                                  |      ^                                  |
       |                                  +------+ no response, a crash             |
       +--------------- the new file takes the place of the old one ---------------+

The old key signs the call, and the new one the statement in it (`POST /v1/successions`), which may
be repeated. Central moves what the old key holds in one transaction, and refuses the old key from
then on. Both keys stay on disk until it has confirmed; a start with both uses the old one, and
learns from this call, or from the refusal of any other (`SourceIdentity.accept_successor`), that
the new one has taken its place. A call that is refused for that is sent again under the new key.

An operator asks for a rotation by `sidecar rotate-key`, which leaves a file in the
volume: only the process that holds the spool's lock makes keys.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from kit.http.logs import fields
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, UpstreamProblem
from sidecar.upstream.resilience import Backoff
from sidecar.upstream.source_identity import (
    KEY_FILE_NAME,
    NEXT_KEY_FILE_NAME,
    SourceIdentity,
    SourceKey,
    adopt_next,
    load_or_create_next,
)

logger = logging.getLogger(__name__)

REQUEST_FILE_NAME = "rotate-key"
CHECK_PERIOD_S = 5.0
"""An operator waits for it; three look-ups in a directory."""
BACKOFF_BASE_S = 1.0
BACKOFF_LIMIT_S = 300.0
"""The old key goes on working meanwhile."""
RATE_LIMITED = 429
REFUSED_S = 6 * 3600.0
"""Central says no to a key without bindings, say of an idle unit, and audits it."""


class SuccessionApi(Protocol):
    @property
    def clock_offset_s(self) -> float: ...

    async def succeed(self, statement: str) -> None: ...


class KeyRotation:
    """Promise: whenever this process or central ends, one of the keys on disk works."""

    def __init__(
        self,
        directory: Path,
        identity: SourceIdentity,
        central: SuccessionApi,
        metrics: Metrics,
        *,
        max_age_s: float,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        """`max_age_s` 0: only when asked for."""
        self._directory = directory
        self._identity = identity
        self._central = central
        self._metrics = metrics
        self._max_age_s = max_age_s
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._backoff = Backoff(BACKOFF_BASE_S, BACKOFF_LIMIT_S)
        self._not_before = 0.0

    async def run(self) -> None:
        """Replaces the key whenever that is due; a rotation that was begun is due at once."""
        while True:
            if self._is_due():
                try:
                    await self.rotate()
                    self._backoff.reset()
                except (CentralUnavailable, UpstreamProblem, OSError) as error:
                    self._on_failure(error)
            await self._sleep(CHECK_PERIOD_S)

    async def rotate(self) -> None:
        """One attempt. Raises `CentralUnavailable`, `UpstreamProblem` or OSError; the next attempt
        goes on from there."""
        next_key = SourceKey(await asyncio.to_thread(load_or_create_next, self._directory))
        (self._directory / REQUEST_FILE_NAME).unlink(missing_ok=True)  # the next key stands for it
        if self._identity.source_id != next_key.source_id:  # else a refused call has named it
            self._identity.next_key = next_key
            await self._succeed(next_key.source_id)
        await asyncio.to_thread(adopt_next, self._directory)
        self._metrics.key_rotations.labels("rotated").inc()
        logger.warning("source key rotated", extra=fields(source_id=self._identity.source_id))

    def age_s(self) -> float:
        """Of the current key's file; 0 if there is none."""
        try:
            made_at = (self._directory / KEY_FILE_NAME).stat().st_mtime
        except OSError:  # the volume is gone
            return 0.0
        return max(0.0, self._wall_clock() - made_at)

    async def _succeed(self, next_id: str) -> None:
        now = self._wall_clock() + self._central.clock_offset_s
        try:
            await self._central.succeed(self._identity.succession(now=now))
        except UpstreamProblem:
            # Another call's refusal may have brought the next key into use, which signed this one.
            if self._identity.source_id != next_id:
                raise
        self._identity.accept_successor(next_id)

    def _is_due(self) -> bool:
        if self._has(REQUEST_FILE_NAME):
            return True
        if self._monotonic() < self._not_before:
            return False
        return self._has(NEXT_KEY_FILE_NAME) or 0 < self._max_age_s < self.age_s()

    def _has(self, name: str) -> bool:
        return (self._directory / name).exists()

    def _on_failure(self, error: CentralUnavailable | UpstreamProblem | OSError) -> None:
        is_refusal = isinstance(error, UpstreamProblem) and error.status != RATE_LIMITED
        wait_s = max(self._backoff.next_s(), REFUSED_S if is_refusal else 0.0)
        self._not_before = self._monotonic() + wait_s
        self._metrics.key_rotations.labels("refused" if is_refusal else "failed").inc()
        if is_refusal or self._backoff.failure_count == 1:
            logger.error("source key not rotated", extra=fields(detail=str(error)))
