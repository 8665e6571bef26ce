"""A sync that failed, or never ended, takes nothing along that counts on it later."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.recovery import QUARANTINE
from sidecar.spool.spool import Spool
from tests.journeys.crashing.volume import Volume
from tests.systems import ROOT

PROGRAM = """
import asyncio, os, signal, sys
from pathlib import Path
from sidecar.problems import SpoolUnavailable
from sidecar.spool import file
from sidecar.spool.entry import NewEntry, Outcome, Priority
from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.spool import Spool
from tests.journeys.crashing.lossy_disk import LossyDisk

live, synced, response = (Path(argument) for argument in sys.argv[1:4])
fate, at = sys.argv[4:]
failing = []
LossyDisk(synced, lambda _: failing and failing.pop(), drops=fate == "forgotten").install()

def write(name):
    return NewEntry(7, 1, "update_execution", {"name": name}, Priority.NORMAL)

async def main():
    spool = Spool(live, SpoolLimits(2**26))
    await spool.open()
    seq = await spool.append(write("settled"))
    batch = await spool.cut(flush=True)
    if at == "write-back":
        file.CHECKPOINT_FROM_FRAMES = 1
        failing.append(True)
    await spool.settle(batch, [Outcome(seq, "applied")], lambda records: None)  # is not synced
    if at == "commit":
        assert (await spool.find(seq)).state == "committed"  # on a connection that stays open
        failing.append(True)
        try:
            await spool.append(write("refused"))
        except SpoolUnavailable:
            pass
    await spool.append(write("acknowledged"))
    assert not failing
    file.CHECKPOINT_FROM_FRAMES = 1000
    again = await spool.in_flight()
    if fate == "readable" or at == "commit":  # else it is a race what was written by then
        assert (again is not None) is (fate == "forgotten")
    if again is not None:
        assert again == batch
        await spool.settle(again, [Outcome(seq, "applied")], lambda records: None)
    batch = await spool.cut(flush=True)
    response.write_text(f"{batch.epoch} {batch.number} {batch.digest}")
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


KILLED_IN_A_SYNC = """
import asyncio, os, signal, sys
from pathlib import Path
from sidecar.spool.entry import NewEntry, Priority
from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.spool import Spool
from tests.journeys.crashing.lossy_disk import LossyDisk

live, synced, response = (Path(argument) for argument in sys.argv[1:4])
is_second = sys.argv[4] == "second"
dying = []
LossyDisk(synced, lambda _: dying and os.kill(os.getpid(), signal.SIGKILL)).install()

async def main():
    spool = Spool(live, SpoolLimits(2**26))
    await spool.open()
    if not is_second:
        await spool.append(NewEntry(7, 1, "update_execution", {"name": "n"}, Priority.NORMAL))
        dying.append(True)
        await spool.cut(flush=True)
    batch = await spool.in_flight()
    response.write_text(f"{batch.epoch} {batch.number} {batch.digest}")  # sent
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def run(program: str, volume: Volume, response: Path, *arguments: str) -> None:
    """Until it kills itself."""
    command = [sys.executable, "-c", program, str(volume.live), str(volume.synced), str(response)]
    done = subprocess.run([*command, *arguments], check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("at", ["commit", "write-back"])
@pytest.mark.parametrize("fate", ["readable", "forgotten"])
async def test_what_follows_a_failed_sync_does_not_rest_on_what_it_lost(
    tmp_path: Path, fate: str, at: str
) -> None:
    """Central may have the second batch: to go back to the first would deliver it twice."""
    volume, response = Volume.create(tmp_path / "volume"), tmp_path / "response"
    run(PROGRAM, volume, response, fate, at)
    volume.cut_power(random.Random(1))  # with this seed all that was not synced is lost

    spool = Spool(volume.live, SpoolLimits(2**26))
    await spool.open()
    batch = await spool.in_flight()
    await spool.close()

    assert batch is not None
    assert f"{batch.epoch} {batch.number} {batch.digest}" == response.read_text()
    names = [msgspec.json.decode(entry.payload)["name"] for entry in batch.entries]
    assert "acknowledged" in names
    assert not (volume.live / QUARANTINE).exists()


async def test_a_batch_that_was_found_at_a_start_is_on_the_disk_before_it_is_sent(
    tmp_path: Path,
) -> None:
    """One process is killed while it syncs the cut, and its next one goes on from there."""
    volume, response = Volume.create(tmp_path / "volume"), tmp_path / "response"
    for life in ("first", "second"):
        assert not response.exists()
        run(KILLED_IN_A_SYNC, volume, response, life)
    volume.cut_power(random.Random(1))

    spool = Spool(volume.live, SpoolLimits(2**26))
    await spool.open()
    batch = await spool.in_flight()
    await spool.close()

    assert batch is not None
    assert f"{batch.epoch} {batch.number} {batch.digest}" == response.read_text()
