"""Whether the computing unit is alive: one look at its port."""

import asyncio
from contextlib import suppress
from enum import Enum, auto
from typing import Protocol

from sidecar.settings import HealthCheck

CHECK_TIMEOUT_S = 2.0
"""On loopback. A busy unit takes a connection at once, as its kernel does that."""


class UnitState(Enum):
    """What one look tells."""

    ALIVE = auto()
    UNRESPONSIVE = auto()
    """It does not answer as it should: it may be busy, or starting, or stopped."""
    DOWN = auto()
    """Nobody listens where it listens as long as it lives: its process is not there."""


class ComputingUnit(Protocol):
    async def look(self) -> UnitState: ...


class AlwaysUp:
    """Without a check the sidecar's own life counts: they share a pod."""

    async def look(self) -> UnitState:
        return UnitState.ALIVE


class HealthProbe:
    """A TCP check: somebody listens. An HTTP check: they answer 2xx or 3xx as well."""

    def __init__(self, check: HealthCheck, *, timeout_s: float = CHECK_TIMEOUT_S) -> None:
        self._check = check
        self._timeout_s = timeout_s

    async def look(self) -> UnitState:
        try:
            async with asyncio.timeout(self._timeout_s):
                return UnitState.ALIVE if await self._look() else UnitState.UNRESPONSIVE
        except ConnectionRefusedError:
            return UnitState.DOWN
        except (OSError, TimeoutError, ValueError, IndexError):
            return UnitState.UNRESPONSIVE

    async def _look(self) -> bool:
        address = self._check.address
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            if self._check.target is None:
                return True
            request = f"GET {self._check.target} HTTP/1.1\r\nHost: {address}\r\nConnection: close"
            writer.write(f"{request}\r\n\r\n".encode())
            status_line = await reader.readline()
            return 200 <= int(status_line.split()[1]) < 400
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def checked_or_not(check: HealthCheck | None) -> ComputingUnit:
    return AlwaysUp() if check is None else HealthProbe(check)
