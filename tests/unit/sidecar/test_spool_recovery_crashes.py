"""Recovery may be killed at any of its steps: the next start continues."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.spool.recovery import QUARANTINE
from sidecar.spool.schema import FILE_NAME, PAGE_BYTES
from tests.systems import ROOT
from tests.unit.sidecar.damage_fixtures import LOG_NAME, copy_as_killed
from tests.unit.sidecar.spool_fixtures import (
    EID,
    OTHER_EID,
    Spools,
    cut,
    numbers,
    settle,
    update,
)
from tests.unit.sidecar.spool_invariants import findings_in

STEPS = 48
"""More than there are."""
PROGRAM = """
import os, signal, sys
from pathlib import Path

from sidecar.spool import recovery

def dying(step):
    def run(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments, **options)
    return run

for name in ("fsync", "rename", "unlink", "mkdir", "link"):
    setattr(os, name, dying(getattr(os, name)))
deaths, *directories = sys.argv[1:]
for number, directory in enumerate(directories, start=1):
    for _ in range(int(deaths)):
        pid = os.fork()
        if not pid:
            left = number
            recovery.open_or_recover(Path(directory))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), end=" ")
    print()
"""
"""Opens the n-th spool, and dies before the n-th step that changes its folder or makes it sure."""


def killed_at_each_step(directories: list[Path], deaths: int) -> list[bool]:
    """Whether the first start on each was; else it had no such step any more."""
    command = [sys.executable, "-c", PROGRAM, str(deaths), *map(str, directories)]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    codes = [[int(code) for code in line.split()] for line in done.stdout.splitlines()]
    assert {code for line in codes for code in line} == {0, -signal.SIGKILL}, done.stderr
    return [line[0] != 0 for line in codes]


def damaged(directory: Path) -> None:
    """The file's first page is not one; the log has what came last."""
    with (directory / FILE_NAME).open("r+b") as file:
        file.write(b"\xff" * PAGE_BYTES)


@pytest.mark.parametrize("deaths", [1, 2], ids=["killed once", "killed at the next start too"])
async def test_recovery_killed_at_any_step_loses_nothing(
    spools: Spools, tmp_path: Path, deaths: int
) -> None:
    spool = await spools.open()
    ended = await spool.append(update(EID, name="ended"))
    await settle(spool, await cut(spool))
    in_file = [await spool.append(update(EID, name=f"n{n}")) for n in range(20)]
    await spool.vacuum()  # the file has them, and the log begins anew
    in_log = [await spool.append(update(OTHER_EID, name=f"n{n}")) for n in range(20)]
    copy_as_killed(spools.directory, tmp_path / "killed")
    await spools.close()
    damaged(tmp_path / "killed")

    folders = [tmp_path / f"after-{step}" for step in range(STEPS)]
    for folder in folders:
        shutil.copytree(tmp_path / "killed", folder)
    killed = killed_at_each_step(folders, deaths)
    assert killed == sorted(killed, reverse=True)
    assert 8 < killed.count(True) < STEPS

    for folder in folders[: killed.count(True) + 1]:
        left = Spools(folder, spools.limits)
        spool = await left.open()
        assert numbers(await cut(spool)) == in_file + in_log
        assert await spool.append(update(name="new")) > in_log[-1]
        assert await spool.find(ended) is not None
        assert findings_in(folder) == []
        evidence = list((folder / QUARANTINE).glob(f"*/{FILE_NAME}"))
        assert [path.read_bytes()[:4] for path in evidence] == [b"\xff" * 4]
        assert not list(folder.glob("*rescue*"))
        await left.close()
        assert not (folder / LOG_NAME).exists()
