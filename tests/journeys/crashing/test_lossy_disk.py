"""The disk of the crash tests loses what was not synced, and nothing else."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.spool import schema
from tests.journeys.crashing.volume import Volume, mixed
from tests.systems import ROOT

COUNT = 200
PROGRAM = """
import os, signal, sys
from pathlib import Path
from sidecar.spool import schema
from tests.journeys.crashing.lossy_disk import LossyDisk

live, synced, mode, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
LossyDisk(synced).install()
spool = schema.connect(live / schema.FILE_NAME)
schema.configure(spool)
spool.execute(f"PRAGMA synchronous = {mode}")
for number in range(count):
    spool.execute("INSERT INTO coalesced VALUES (?, 1, 0)", (number,))
os.kill(os.getpid(), signal.SIGKILL)
"""


def write_and_die(volume: Volume, mode: str) -> None:
    """A process that commits COUNT rows and is killed."""
    arguments = [str(volume.live), str(volume.synced), mode, str(COUNT)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL


def rows_in(volume: Volume) -> int:
    connection = schema.connect(volume.live / schema.FILE_NAME)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(connection.execute("SELECT count(*) FROM coalesced").fetchone()[0])
    finally:
        connection.close()


@pytest.mark.parametrize("mode", ["FULL", "NORMAL", "OFF"])
def test_only_full_synchronization_survives_a_power_cut(tmp_path: Path, mode: str) -> None:
    killed, cut = Volume.create(tmp_path / "killed"), Volume.create(tmp_path / "cut")

    for volume in (killed, cut):
        write_and_die(volume, mode)
    cut.cut_power(random.Random(1))  # with this seed all that was not synced is lost

    assert rows_in(killed) == COUNT
    assert (rows_in(cut) == COUNT) is (mode == "FULL")


def test_sectors_that_were_not_synced_are_old_or_new() -> None:
    old, new = b"o" * 2048, b"n" * 4096
    left = [mixed(old, new, 0.5, random.Random(seed)) for seed in range(20)]

    assert {octet for octets in left for octet in octets[::512]} == set(b"on\0")
    assert {len(octets) for octets in left} == {len(old), len(new)}
    assert mixed(old, new, 1.0, random.Random(7)) == old
    assert mixed(old, new, 0.0, random.Random(7)) == new
