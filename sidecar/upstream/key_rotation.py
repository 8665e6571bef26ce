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

An operator asks for a rotation by `python -m sidecar rotate-key`, which leaves a file in the
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
    create_next,
)

logger = logging.getLogger(__name__)

REQUEST_FILE_NAME = "rotate-key"
CHECK_PERIOD_S = 5.0
"""An operator waits for it; three look-ups in a directory."""
BACKOFF_BASE_S = 1.0
BACKOFF_LIMIT_S = 300.0
"""The old key goes on working meanwhile."""


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
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        """`max_age_s` 0: only when asked for."""
        self._directory = directory
        self._identity = identity
        self._central = central
        self._metrics = metrics
        self._max_age_s = max_age_s
        self._wall_clock = wall_clock
        self._sleep = sleep

    async def run(self) -> None:
        """Replaces the key whenever that is due; a rotation that was begun is due at once."""
        backoff = Backoff(BACKOFF_BASE_S, BACKOFF_LIMIT_S)
        while True:
            wait_s = CHECK_PERIOD_S
            if self._is_due():
                try:
                    await self.rotate()
                    backoff.reset()
                except (CentralUnavailable, UpstreamProblem, OSError) as error:
                    wait_s += backoff.next_s()
                    self._report(error, is_first=backoff.failure_count == 1)
            await self._sleep(wait_s)

    async def rotate(self) -> None:
        """One attempt. Raises `CentralUnavailable`, `UpstreamProblem` or OSError; the next attempt
        goes on from there."""
        if not self._has(NEXT_KEY_FILE_NAME):
            next_key = await asyncio.to_thread(create_next, self._directory)
            self._identity.next_key = SourceKey(next_key)
        (self._directory / REQUEST_FILE_NAME).unlink(missing_ok=True)  # the next key stands for it
        if self._identity.next_key is not None:  # else a refused call has brought it into use
            await self._succeed(self._identity.next_key.source_id)
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
        if self._has(NEXT_KEY_FILE_NAME) or self._has(REQUEST_FILE_NAME):
            return True
        return 0 < self._max_age_s < self.age_s()

    def _has(self, name: str) -> bool:
        return (self._directory / name).exists()

    def _report(
        self, error: CentralUnavailable | UpstreamProblem | OSError, *, is_first: bool
    ) -> None:
        is_answer = isinstance(error, UpstreamProblem)
        self._metrics.key_rotations.labels("refused" if is_answer else "failed").inc()
        if is_first:
            logger.error("source key not rotated", extra=fields(detail=str(error)))
