"""Waiting for a process to answer, and noticing when it will not."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp

from dev.child import Child
from dev.ports import HOST

START_TIMEOUT_S = 30.0  # each answers within half a second; a busy machine takes longer
POLL_S = 0.02

Probe = Callable[[], Awaitable[bool]]


async def wait_for(child: Child, probe: Probe, timeout_s: float = START_TIMEOUT_S) -> None:
    """Ask until the probe says yes. StartFailed if the process ends first, or time does."""
    deadline = time.monotonic() + timeout_s
    while not await probe():
        if child.has_ended:
            raise child.start_failed(f"ended with exit code {child.process.returncode}")
        if time.monotonic() > deadline:
            raise child.start_failed(f"did not answer within {timeout_s:.0f} s")
        await asyncio.sleep(POLL_S)


def listens(port: int) -> Probe:
    """Does somebody accept connections there?"""

    async def probe() -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            return False
        writer.close()
        return True

    return probe


def is_ready(session: aiohttp.ClientSession, ops_port: int) -> Probe:
    """Does its ops listener call it ready?"""

    async def probe() -> bool:
        return await status(session, f"http://{HOST}:{ops_port}/readyz") == 200

    return probe


def serves(session: aiohttp.ClientSession, url: str, token: str) -> Probe:
    """Does a user's call get an answer of substance, so that all behind it works too?"""

    async def probe() -> bool:
        answer = await status(session, url, {"Authorization": f"Bearer {token}"})
        return answer is not None and answer < 500

    return probe


async def status(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None
) -> int | None:
    """The status of a GET; None if there is no answer at all."""
    try:
        async with session.get(url, headers=headers) as response:
            return response.status
    except (aiohttp.ClientError, TimeoutError):
        return None
