"""Bindings, grants and the boot: changed in the spool's file, and then in memory."""

import sqlite3
from collections.abc import Callable, Iterable

from sidecar.spool import bindings, schema
from sidecar.spool.bindings import Binding, BindingIndex, Boot, Grant
from sidecar.spool.file import SpoolFile
from sidecar.spool.index_snapshot import IndexSnapshot


class StoredBindings(BindingIndex):
    """What the file says of bindings. Methods that change it raise `SpoolUnavailable`."""

    def __init__(self, file: SpoolFile, now_ms: Callable[[], int]) -> None:
        super().__init__()
        self._file = file
        self._now_ms = now_ms
        self.boot: Boot | None = None
        """The computing unit's present boot, if it has registered one."""
        self.lost_at_ms: int | None = None
        """When bindings may have been lost, with other damage or the whole file. Kept in the file
        until `mark_complete`."""
        self._is_loaded = False
        self.on_bound: Callable[[int], None] = lambda execution_id: None
        """Called with the execution of each new binding."""

    @property
    def is_complete(self) -> bool:
        """Whether it is known that no binding is missing: else one that central has and the spool
        does not know may be that of a running execution."""
        return self._is_loaded and self.lost_at_ms is None

    def load_snapshot(self, snapshot: IndexSnapshot) -> None:
        self.load(snapshot.bindings, snapshot.grants, self._now_ms())
        self.boot = snapshot.boot
        self.lost_at_ms = snapshot.bindings_lost_at_ms
        self._is_loaded = True

    async def mark_complete(self, lost_at_ms: int) -> None:
        """Every binding from before that loss is known again, or ended. A later loss counts."""

        def store(connection: sqlite3.Connection) -> None:
            if schema.read_meta(connection).get(schema.BINDINGS_LOST) == lost_at_ms:
                schema.write_meta(connection, bindings_lost_at_ms=None)

        def index(_: None) -> None:
            if self.lost_at_ms == lost_at_ms:
                self.lost_at_ms = None

        await self._file.write(store, index)

    async def record(self, binding: Binding, grant: Grant) -> None:
        """Stores central's authorization of this sidecar and of this token for an execution."""

        def index(stored: Binding) -> None:
            self.add(stored, grant)
            self.on_bound(stored.execution_id)

        await self._file.write(
            lambda connection: bindings.record(connection, binding, grant), index
        )

    async def record_boot(self, boot: Boot, closed: Iterable[int]) -> None:
        """Stores the unit's new boot, and the end of the runs that central closed for it."""
        await self.end(closed, boot=boot)

    async def end(self, execution_ids: Iterable[int], *, boot: Boot | None = None) -> None:
        """Stores that these ended, or are no longer this sidecar's: forgotten after the grace.

        It says nothing of a binding that is being stored at the same time.
        """
        ended = self.known(execution_ids)
        now_ms = self._now_ms()

        def store(connection: sqlite3.Connection) -> None:
            if boot is not None:
                bindings.record_boot(connection, boot)
            bindings.end(connection, ended, now_ms)

        def index(_: None) -> None:
            self.boot = boot or self.boot
            self.mark_ended(ended, now_ms)

        await self._file.write(store, index)

    async def purge(self) -> None:
        """Forgets executions that ended more than the grace ago."""
        expired = self.expired(self._now_ms())
        if expired:
            await self._file.write(
                lambda connection: bindings.forget_ended(connection, expired), self.forget
            )
