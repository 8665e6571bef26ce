"""Whether the spool's directory keeps what it is given: its volume, its key, its fsync."""

import os
import stat
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from kit.http.checks import Check, fail, ok, warn
from sidecar.upstream.source_identity import KEY_FILE_NAME

SYNC_COUNT = 16
IMPLAUSIBLE_SYNC_S = 20e-6
"""The fastest drives with power-loss protection take about this long; RAM takes less."""
MOUNTS = Path("/proc/self/mountinfo")
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
OF_A_CONTAINER = frozenset({"overlay", "aufs"})


def check_volume(directory: Path, needed_bytes: int, mounts: Path = MOUNTS) -> list[Check]:
    if not directory.is_dir():
        return [fail("spool", f"{directory} is not there")]
    try:
        free = os.statvfs(directory)
    except OSError as error:
        return [fail("spool", f"{directory}: {error.strerror}")]
    free_bytes = free.f_bavail * free.f_frsize
    room = f"{free_bytes // 2**20} MiB free, SIDECAR_SPOOL_MAX_BYTES is {needed_bytes // 2**20} MiB"
    return [
        _own_volume(directory, mounts),
        ok("spool's room", room) if free_bytes >= needed_bytes else warn("spool's room", room),
    ]


def _own_volume(directory: Path, mounts: Path) -> Check:
    name = "spool's volume"
    point, kind = mount_of(directory.resolve(), mounts.read_text())
    if kind in OF_A_CONTAINER or point == Path("/"):
        return fail(name, f"{directory} is on {point} ({kind}): it ends with the container")
    if kind in IN_MEMORY:
        return warn(name, f"{directory} is on {point} ({kind}): memory, which ends with the pod")
    return ok(name, f"{point} ({kind})")


def mount_of(path: Path, mountinfo: str) -> tuple[Path, str]:
    """Where the file system of `path` is mounted, and of what kind it is (proc(5))."""
    best, kind = Path("/"), "unknown"
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split(" ")[4].encode().decode("unicode_escape"))
        if path.is_relative_to(point) and point.is_relative_to(best):
            best, kind = point, after.split(" ")[0]
    return best, kind


def check_key(directory: Path) -> Check:
    """The key is the sidecar's name: whoever else can read it can be this sidecar."""
    name, path = "source key", directory / KEY_FILE_NAME
    try:
        found = path.stat()
    except FileNotFoundError:
        return warn(name, "none yet: the first `serve` makes it")
    except OSError as error:
        return fail(name, f"{path}: {error.strerror}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return fail(name, f"{path} has mode {mode:04o}, expected 0600")
    if found.st_uid != os.geteuid():
        return fail(name, f"{path} belongs to user {found.st_uid}, not to {os.geteuid()}")
    return ok(name, "only this user can read it")


def check_sync(directory: Path, clock: Callable[[], float]) -> Check:
    """Writes and syncs a little, as the spool does before it acknowledges a write."""
    name = "fsync"
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            took_s = []
            for _ in range(SYNC_COUNT):
                file.write(bytes(4096))
                file.flush()
                started_at = clock()
                os.fdatasync(file.fileno())
                took_s.append(clock() - started_at)
    except OSError as error:
        return fail(name, f"{directory}: {error.strerror}")
    median_s = statistics.median(took_s)
    detail = f"{median_s * 1000:.3f} ms, median of {SYNC_COUNT}"
    if median_s < IMPLAUSIBLE_SYNC_S:
        return warn(name, f"{detail}: too fast for a disk, so power cuts may lose what was kept")
    return ok(name, detail)
