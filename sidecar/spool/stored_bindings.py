"""Bindings, grants and the boot: changed in the spool's file, and then in memory."""

import sqlite3
from collections.abc import Callable, Iterable

from sidecar.spool import bindings
from sidecar.spool.bindings import Binding, BindingIndex, Boot, Grant, PermissionChanges
from sidecar.spool.file import SpoolFile


class StoredBindings(BindingIndex):
    """What the file says of bindings. Methods that change it raise `SpoolUnavailable`."""

    def __init__(self, file: SpoolFile, now_ms: Callable[[], int]) -> None:
        super().__init__()
        self._file = file
        self._now_ms = now_ms
        self.boot: Boot | None = None
        """The computing unit's present boot, if it has registered one."""
        self.on_bound: Callable[[int], None] = lambda execution_id: None
        """Called with the execution of each new binding."""

    async def record(self, binding: Binding, grant: Grant) -> None:
        """Stores central's authorization of this sidecar and of this token for an execution."""

        def store(connection: sqlite3.Connection) -> None:
            bindings.record(connection, binding, grant)

        def index(_: None) -> None:
            self.add(binding, grant)
            self.on_bound(binding.execution_id)

        await self._file.write(store, index)

    async def record_boot(self, boot: Boot, closed: Iterable[int]) -> None:
        """Stores the unit's new boot, and the end of the runs that central closed for it."""
        await self.end(closed, boot=boot)

    async def end(self, execution_ids: Iterable[int], *, boot: Boot | None = None) -> None:
        """Stores that these ended, or are no longer this sidecar's: forgotten after the grace."""
        changes = PermissionChanges(ended=frozenset(execution_ids), revoked=frozenset())
        now_ms = self._now_ms()

        def store(connection: sqlite3.Connection) -> None:
            if boot is not None:
                bindings.record_boot(connection, boot)
            bindings.apply(connection, changes, now_ms)

        def index(_: None) -> None:
            self.boot = boot or self.boot
            self.apply(changes, now_ms)

        await self._file.write(store, index)

    async def purge(self) -> None:
        """Forgets executions that ended more than the grace ago."""
        expired = self.expired(self._now_ms())
        if expired:
            await self._file.write(
                lambda connection: bindings.forget_ended(connection, expired), self.forget
            )
