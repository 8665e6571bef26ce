"""An unusable volume, by the real command: problems say what is wrong; it recovers by itself."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.bench.raw_http_client import RawHttpClient, RawResponse
from kit.http.service import EXIT_CANNOT_CREATE
from tests.databases import Database
from tests.journeys.crashing.processes import Sidecar
from tests.journeys.crashing.scenario import Scenario, scenario

PATIENCE_S = 60.0
TMPFS_BYTES = 12 * 1024 * 1024  # the ballast takes a third of it
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs takes root")


@dataclass
class Client:
    """What a computing unit asks of its sidecar."""

    sidecar: Sidecar

    async def call(self, method: str, path: str, body: object = None) -> RawResponse:
        async with RawHttpClient(self.sidecar.url, self.sidecar.token) as line:
            return await line.send(line.request(method, path, body))

    async def patch(self, execution_id: int, **changes: object) -> RawResponse:
        return await self.call("PATCH", f"/v1/executions/{execution_id}", changes)

    async def until_refused(self, execution_id: int, **changes: object) -> RawResponse:
        """The first response that is no 202."""
        async with RawHttpClient(self.sidecar.url, self.sidecar.token) as line:
            request = line.request("PATCH", f"/v1/executions/{execution_id}", changes)
            for _ in range(5000):
                response = await line.send(request)
                if response.status != 202:
                    return response
        raise AssertionError("nothing was refused")

    async def flush(self) -> int:
        return (await self.call("POST", "/v1/flush?timeout=60")).status

    async def status_of(self, execution_id: int) -> str:
        status: str = (await self.call("GET", f"/v1/executions/{execution_id}")).json()["status"]
        return status

    async def ready(self) -> RawResponse:
        async with RawHttpClient(self.sidecar.ops_url) as line:
            return await line.send(line.request("GET", "/readyz"))


def refusal(response: RawResponse) -> tuple[int, str, bool]:
    """Status, type, and whether it says when to come again."""
    return response.status, response.json()["type"], b"retry-after: " in response.head.lower()


async def until(
    condition: Callable[[], Awaitable[bool]], *, patience_s: float = PATIENCE_S
) -> None:
    async with asyncio.timeout(patience_s):
        while not await condition():  # noqa: ASYNC110 (it is another process)
            await asyncio.sleep(0.05)


@asynccontextmanager
async def away(it: Scenario) -> AsyncIterator[None]:
    """Central is down while the block runs."""
    await it.central.process.kill()
    yield
    it.central.start()
    await it.central.until_ready()


@contextmanager
def small_volume(folder: Path) -> Iterator[Path]:
    """A tmpfs of the test's own."""
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(folder)], check=True
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(volume: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(volume)], check=True)


async def test_a_full_spool_takes_the_ends_of_runs_and_nothing_else(database: Database) -> None:
    async with scenario(database, 1) as it:
        settings = {"SIDECAR_SPOOL_MAX_ENTRIES": "1000"}
        client = Client(await it.add_sidecar(forked=False, settings=settings))
        first, second, _ = client.sidecar.execution_ids

        async with away(it):
            full = await client.until_refused(first, bookmarked=True)
            ends = [await client.patch(eid, status="COMPLETED") for eid in (first, second)]
            still_full = await client.patch(second, bookmarked=True)

        assert refusal(full) == refusal(still_full) == (503, "spool-full", True)
        assert [end.status for end in ends] == [202, 202]
        assert await client.flush() == 200
        assert [await client.status_of(eid) for eid in (first, second)] == ["COMPLETED"] * 2
        assert (await client.patch(second, bookmarked=True)).status == 202


@ROOT_ONLY
async def test_a_volume_without_space_takes_the_ends_of_runs_and_recovers(
    database: Database,
) -> None:
    async with scenario(database, 2) as it:
        with small_volume(it.folder / "small") as volume:
            settings = {"SIDECAR_SPOOL_DIR": str(volume)}
            client = Client(await it.add_sidecar(forked=False, settings=settings))
            first, second, third = client.sidecar.execution_ids

            async with away(it):
                no_space = await client.until_refused(first, result="r" * 100_000)
                ends = [await client.patch(eid, status="COMPLETED") for eid in (first, second)]
                still_none = await client.patch(third, bookmarked=True)

            assert refusal(no_space) == refusal(still_none) == (507, "spool-volume-full", True)
            assert [end.status for end in ends] == [202, 202]
            assert await client.flush() == 200
            assert [await client.status_of(eid) for eid in (first, second)] == ["COMPLETED"] * 2

            async def is_taken_again() -> bool:
                return (await client.patch(third, bookmarked=True)).status == 202

            await until(is_taken_again)
            await client.sidecar.process.kill()


@ROOT_ONLY
async def test_a_read_only_volume_does_not_prevent_the_start_and_loses_nothing(
    database: Database,
) -> None:
    async with scenario(database, 3) as it:
        with small_volume(it.folder / "small") as volume:
            settings = {"SIDECAR_SPOOL_DIR": str(volume)}
            client = Client(await it.add_sidecar(forked=False, settings=settings))
            first, second, _ = client.sidecar.execution_ids
            async with away(it):
                assert (await client.patch(first, status="COMPLETED")).status == 202
                await client.sidecar.process.kill()
            remount(volume, "ro")

            client.sidecar.start()

            async def answers() -> bool:
                try:
                    return (await client.ready()).status == 503
                except OSError:
                    return False

            await until(answers)
            assert b"the spool's volume" in (await client.ready()).body
            refused = await client.patch(second, bookmarked=True)
            read = await client.call("GET", f"/v1/executions/{first}")
            remount(volume, "rw")

            async def is_delivered() -> bool:
                return await client.status_of(first) == "COMPLETED"

            # Nobody writes: the sidecar comes back to its volume by itself, and soon.
            await until(is_delivered, patience_s=PATIENCE_S / 2)
            assert refusal(refused) == (503, "spool-unavailable", True)
            assert read.status == 200
            assert (await client.patch(second, bookmarked=True)).status == 202
            assert (await client.ready()).status == 200
            await client.sidecar.process.kill()


async def test_a_volume_that_vanishes_and_comes_back_loses_nothing(database: Database) -> None:
    async with scenario(database, 4) as it:
        client = Client(await it.add_sidecar(forked=False))
        first, second, _ = client.sidecar.execution_ids
        live = client.sidecar.volume.live
        async with away(it):
            assert (await client.patch(first, status="COMPLETED")).status == 202
            live.rename(live.with_name("away"))

            gone = await client.patch(second, bookmarked=True)
            live.mkdir(exist_ok=True)
            empty = await client.patch(second, bookmarked=True)
            left = [path.name for path in live.iterdir()]
            shutil.rmtree(live)
            live.with_name("away").rename(live)
            back = await client.patch(second, status="COMPLETED")

        assert refusal(gone) == refusal(empty) == (503, "spool-unavailable", True)
        assert left == []
        assert back.status == 202
        assert await client.flush() == 200
        assert [await client.status_of(eid) for eid in (first, second)] == ["COMPLETED"] * 2


async def test_a_spool_put_back_after_central_went_on_loses_nothing(
    database: Database, tmp_path: Path
) -> None:
    """The file of an hour ago, with the old key: central has had more than it knows of."""
    async with scenario(database, 5) as it:
        client = Client(await it.add_sidecar(forked=False))
        first, second, third = client.sidecar.execution_ids
        live = client.sidecar.volume.live
        async with away(it):
            assert (await client.patch(first, status="COMPLETED")).status == 202
            await client.sidecar.process.kill()
            shutil.copytree(live, tmp_path / "old")
        client.sidecar.start()
        await client.sidecar.until_ready()
        for name in ("a", "b"):
            assert (await client.patch(second, name=name)).status == 202
            assert await client.flush() == 200
        await client.sidecar.process.kill()
        shutil.rmtree(live)
        shutil.copytree(tmp_path / "old", live)

        client.sidecar.start()
        await client.sidecar.until_ready()

        assert (await client.patch(third, status="COMPLETED")).status == 202
        assert await client.flush() == 200
        assert [await client.status_of(eid) for eid in (first, third)] == ["COMPLETED"] * 2
        async with RawHttpClient(client.sidecar.ops_url) as line:
            status = (await line.send(line.request("GET", "/status"))).json()
        assert status["spool"]["epochs_started"] == 1


async def test_a_second_sidecar_on_a_spool_in_use_ends_at_once_and_disturbs_nobody(
    database: Database,
) -> None:
    async with scenario(database, 6) as it:
        client = Client(await it.add_sidecar(forked=False))
        execution_id = client.sidecar.execution_ids[0]
        settings = {"SIDECAR_SPOOL_DIR": str(client.sidecar.volume.live)}
        second = Sidecar(it.folder / "second", it.central.url, settings=settings)

        second.start()
        await second.process.ends()

        assert second.process.child is not None
        assert second.process.child.returncode == EXIT_CANNOT_CREATE
        assert "another sidecar uses" in second.log.read_text()
        assert (await client.patch(execution_id, status="COMPLETED")).status == 202
        assert await client.flush() == 200

        # The lock ends with the process, however that ends.
        await client.sidecar.process.kill()
        second.start()
        await second.until_ready()
        await second.process.kill()
