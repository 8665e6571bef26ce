"""The folder of a spool, on a disk whose power can be cut."""

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

SECTOR_BYTES = 512


@dataclass(frozen=True)
class Volume:
    """`live` is what the sidecar sees; `synced` what the disk has to keep (`lossy_disk`)."""

    live: Path
    synced: Path

    @classmethod
    def create(cls, folder: Path) -> "Volume":
        volume = cls(folder / "live", folder / "synced")
        volume.live.mkdir(parents=True)
        volume.synced.mkdir()
        return volume

    def cut_power(self, chance: random.Random) -> None:
        """Leave what a power cut may leave; no process may have the folder open.

        Of each database file the synced bytes are there, and of each sector written since then
        either the old bytes or the new. Everything else in the folder stays.
        """
        loss = chance.choice([1.0, 1.0, 0.5, chance.random()])
        kept = sorted(self.synced.iterdir())
        names = {path.name.rpartition("@")[0] for path in kept}
        left = {name: self._left_of(name, kept, loss, chance) for name in sorted(names)}
        for path in self.live.glob("*sqlite3*"):
            path.unlink()  # never synced, or about to be written anew; the -shm is no data
        shutil.rmtree(self.synced)
        self.synced.mkdir()
        for name, octets in left.items():
            if octets is not None:
                path = self.live / name
                path.write_bytes(octets)
                age_by_a_boot(path)
                (self.synced / f"{name}@{path.stat().st_ino}").write_bytes(octets)

    def _left_of(
        self, name: str, kept: list[Path], loss: float, chance: random.Random
    ) -> bytes | None:
        path = self.live / name
        inode = path.stat().st_ino if path.exists() else None
        same = self.synced / f"{name}@{inode}"
        if same in kept:
            return mixed(same.read_bytes(), path.read_bytes(), loss, chance)
        # Deleted, perhaps made anew, and none of it synced: the old file is there, or none is.
        older = next(file for file in kept if file.name.startswith(f"{name}@"))
        return older.read_bytes() if chance.random() < loss else None


def age_by_a_boot(path: Path) -> None:
    """What a power cut leaves was written before this kernel's boot."""
    os.utime(path, (1, 1))


def mixed(old: bytes, new: bytes, loss: float, chance: random.Random) -> bytes:
    """`new`, some of the sectors that differ taken from `old` (from nothing, where it grew)."""
    size = min(len(old), len(new)) if chance.random() < loss else len(new)
    before = old.ljust(len(new), b"\0")
    result = bytearray(new)
    for at in range(0, len(new), SECTOR_BYTES):
        sector = slice(at, at + SECTOR_BYTES)
        if before[sector] != new[sector] and chance.random() < loss:
            result[sector] = before[sector][: len(new) - at]
    return bytes(result[:size])
