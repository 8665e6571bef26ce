"""A disk under this process's SQLite that remembers what was synced, for a power cut to come.

A killed process loses nothing that it handed to the kernel, so SIGKILL alone cannot tell a spool
that syncs from one that does not. Under this disk every write still goes to the real file, which
the process reads, and besides, at each sync of a file, what was written to it since the last one
goes to a second folder. After a kill the two folders say what a disk had to keep and what it might
have lost; `volume.Volume.cut_power` makes a legal state of them.

It is a VFS of SQLite's own kind (https://www.sqlite.org/vfs.html), the default one with three of
its methods wrapped, so neither the spool nor Python's sqlite3 knows of it. The kept file is named
after the real one and its inode: a log that was deleted and made anew is another file.

A sync may fail, as the kernel lets it fail: it says so once, and no later sync brings to the disk
what was written before, unless somebody writes it again. Readable it stays on some file systems
(ext4, XFS), on others it is what it was before (Btrfs).
What the sidecar writes to SQLite's files by itself (`os.pwrite`, `os.fsync`) is seen too.
"""

import _sqlite3
import ctypes
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

_pointer, _int, _offset = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_Open = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _pointer, _int, _pointer)
_Write = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _int, _offset)
_Truncate = ctypes.CFUNCTYPE(_int, _pointer, _offset)
_Sync = ctypes.CFUNCTYPE(_int, _pointer, _int)

SQLITE_IOERR_FSYNC = 1034
SYNC_S = 0.001
"""What a sync takes, as on a good disk: a time in which nothing may be acknowledged yet."""


class _Methods(ctypes.Structure):
    """sqlite3_io_methods, version 3. A file begins with a pointer to one."""

    _fields_ = (
        ("version", _int),
        ("close", _pointer),
        ("read", _pointer),
        ("write", _Write),
        ("truncate", _Truncate),
        ("sync", _Sync),
        *((f"other_{number}", _pointer) for number in range(13)),
    )


class _Vfs(ctypes.Structure):
    """sqlite3_vfs, version 3, as far as it has to be named."""

    _fields_ = (
        ("version", _int),
        ("file_size", _int),
        ("longest_path", _int),
        ("next", _pointer),
        ("name", ctypes.c_char_p),
        ("own", _pointer),
        ("open", _Open),
        *((f"other_{number}", _pointer) for number in range(15)),
    )


class _File:
    """What was done to one file since its last sync, oldest first."""

    def __init__(self, path: Path, kept: Path, *, is_new: bool) -> None:
        self.name = path.name
        self.inode = path.stat().st_ino
        self._path = path
        self._kept = kept
        self._kept_as = kept / f"{path.name}@{self.inode}"
        # SQLite syncs the folder too when it first syncs a log or a journal that it has made.
        self._syncs_folder = is_new and path.name.endswith(("-wal", "-journal"))
        self._changes: list[tuple[int, bytes | None]] = []
        if not is_new:
            # What an earlier process wrote and did not sync goes to the disk with our first sync.
            # The descriptor stays open: to close it would end SQLite's locks (fcntl(2)).
            found = os.pread(os.open(path, os.O_RDONLY), path.stat().st_size, 0)
            self._changes += [(0, found), (len(found), None)]

    def write(self, at: int, octets: bytes) -> None:
        self._changes.append((at, octets))

    def truncate(self, size: int) -> None:
        self._changes.append((size, None))

    def lose(self, *, drops: bool) -> None:
        """What a failed sync should have written is taken for written, and perhaps forgotten."""
        self._changes.clear()
        if drops:
            old = self._kept_as.read_bytes() if self._kept_as.exists() else b""
            descriptor = os.open(self._path, os.O_WRONLY)  # stays open, as above
            os.pwrite(descriptor, old.ljust(self._path.stat().st_size, b"\0"), 0)

    def sync(self) -> None:
        """From its end on the disk has to keep all of it. A kill in the middle is a torn sync."""
        threading.Event().wait(SYNC_S)
        changes, self._changes = self._changes, []
        descriptor = os.open(self._kept_as, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            for at, octets in changes:
                if octets is None:
                    os.ftruncate(descriptor, at)
                else:
                    os.pwrite(descriptor, octets, at)
        finally:
            os.close(descriptor)
        if self._syncs_folder:
            self._syncs_folder = False
            names = {f"{path.name}@{path.stat().st_ino}" for path in self._path.parent.iterdir()}
            for path in self._kept.iterdir():
                if path.name not in names:
                    path.unlink()  # its file was deleted, and that is sure now


class LossyDisk:
    """Installed once in a process, for every database it opens from then on.

    `fails` is asked at each sync, with the file's name, whether this one does, and `forgets` says
    what can be read after it.
    """

    installed: "ClassVar[LossyDisk]"  # for good: SQLite calls it and cannot keep it alive

    def __init__(
        self,
        kept: Path,
        fails: Callable[[str], bool] = lambda name: False,
        *,
        drops: bool = False,
    ) -> None:
        self._kept = kept
        self._fails = fails
        self._drops = drops
        self._by_name: dict[str, _File] = {}
        self._by_handle: dict[int, _File] = {}
        self._wrapped: dict[int, _Methods] = {}

    def install(self) -> None:
        """Raises AttributeError where Python's SQLite does not show its own functions."""
        # Where sqlite3 is part of the interpreter itself, so are SQLite's functions.
        sqlite = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
        sqlite.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        self._usual = sqlite.sqlite3_vfs_find(None).contents
        self._vfs = _Vfs.from_buffer_copy(self._usual)
        self._vfs.name = b"lossy"
        self._vfs.open = _Open(self._open)
        if sqlite.sqlite3_vfs_register(ctypes.byref(self._vfs), 1):
            raise OSError("SQLite did not take the disk")
        self._pwrite, self._fsync = os.pwrite, os.fsync
        os.pwrite, os.fsync = self._write_by_hand, self._sync_by_hand  # type: ignore[assignment]
        LossyDisk.installed = self

    def _write_by_hand(self, descriptor: int, octets: Any, at: int) -> int:
        written = self._pwrite(descriptor, octets, at)
        file = self._opened_as(descriptor)
        if file is not None:
            file.write(at, octets[:written])
        return written

    def _sync_by_hand(self, descriptor: Any) -> None:
        self._fsync(descriptor)
        file = self._opened_as(descriptor)
        if file is not None and not self._sync(file):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _opened_as(self, descriptor: int) -> _File | None:
        """One of SQLite's files, be it that SQLite has not opened it yet."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not path.name.endswith((".sqlite3", "-wal")):
            return None
        file = self._by_name.get(path.name)
        if file is None or file.inode != os.fstat(descriptor).st_ino:
            file = self._by_name[path.name] = _File(path, self._kept, is_new=False)
        return file

    def _sync(self, file: _File) -> bool:
        if self._fails(file.name):
            file.lose(drops=self._drops)
            return False
        file.sync()
        return True

    def _open(self, vfs: int, name: int | None, handle: int, flags: int, flags_out: int) -> int:
        path = Path(os.fsdecode(ctypes.string_at(name))) if name else None
        is_new = path is not None and not path.exists()
        result: int = self._usual.open(vfs, name, handle, flags, flags_out)
        if result or path is None:
            return result
        if is_new or path.name not in self._by_name:
            self._by_name[path.name] = _File(path, self._kept, is_new=is_new)
        self._by_handle[handle] = self._by_name[path.name]
        first_word = ctypes.cast(handle, ctypes.POINTER(_pointer))
        first_word[0] = ctypes.addressof(self._wrap(first_word[0]))
        return 0

    def _wrap(self, address: int) -> _Methods:
        """The methods there, those that change a file wrapped."""
        if address not in self._wrapped:
            usual = _Methods.from_address(address)
            wrapped = self._wrapped[address] = _Methods.from_buffer_copy(usual)
            wrapped.write = _Write(self._writing(usual.write))
            wrapped.truncate = _Truncate(self._truncating(usual.truncate))
            wrapped.sync = _Sync(self._syncing(usual.sync))
        return self._wrapped[address]

    def _writing(self, usual: Any) -> Any:
        def write(handle: int, octets: int, size: int, at: int) -> int:
            result: int = usual(handle, octets, size, at)
            if not result:
                self._by_handle[handle].write(at, ctypes.string_at(octets, size))
            return result

        return write

    def _truncating(self, usual: Any) -> Any:
        def truncate(handle: int, size: int) -> int:
            result: int = usual(handle, size)
            if not result:
                self._by_handle[handle].truncate(size)
            return result

        return truncate

    def _syncing(self, usual: Any) -> Any:
        def sync(handle: int, flags: int) -> int:
            result: int = usual(handle, flags)
            if not result and not self._sync(self._by_handle[handle]):
                return SQLITE_IOERR_FSYNC
            return result

        return sync
