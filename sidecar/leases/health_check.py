"""The health check of the computing unit: one connection to its port."""

import asyncio
from contextlib import suppress
from enum import Enum, auto
from typing import Protocol

from sidecar.settings import HealthCheck

CHECK_TIMEOUT_S = 2.0
"""On loopback. The kernel accepts connections for a busy unit at once."""


class UnitState(Enum):
    UP = auto()
    UNRESPONSIVE = auto()
    """No valid response: the unit may be busy, starting or stopped."""
    DOWN = auto()
    """Connection refused: the unit listens as long as it lives, so its process is gone."""


class UnitProbe(Protocol):
    async def check(self) -> UnitState: ...


class AlwaysUp:
    """Without a health check the sidecar's own life counts: they share a pod."""

    async def check(self) -> UnitState:
        return UnitState.UP


class HealthProbe:
    """TCP: the port accepts connections. HTTP: it also responds with 2xx or 3xx."""

    def __init__(self, settings: HealthCheck, *, timeout_s: float = CHECK_TIMEOUT_S) -> None:
        self._settings = settings
        self._timeout_s = timeout_s

    async def check(self) -> UnitState:
        try:
            async with asyncio.timeout(self._timeout_s):
                return UnitState.UP if await self._responds() else UnitState.UNRESPONSIVE
        except ConnectionRefusedError:
            return UnitState.DOWN
        except (OSError, TimeoutError, ValueError, IndexError):
            return UnitState.UNRESPONSIVE

    async def _responds(self) -> bool:
        address, target = self._settings.address, self._settings.target
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            if target is None:
                return True
            request = f"GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
            status_line = await reader.readline()
            return 200 <= int(status_line.split()[1]) < 400
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def unit_probe(settings: HealthCheck | None) -> UnitProbe:
    return AlwaysUp() if settings is None else HealthProbe(settings)
