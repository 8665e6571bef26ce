"""Who may write, and in which boot of the computing unit: what central said, kept in the file."""

import sqlite3
from collections.abc import Callable, Sequence

from sidecar.spool import bindings
from sidecar.spool.bindings import Binding, BindingIndex, Boot, Grant
from sidecar.spool.file import SpoolFile


class Rights:
    """The half of `Spool` that keeps permits; it owns what is declared here."""

    bindings: BindingIndex
    boot: Boot | None
    on_bound: Callable[[int], None]
    now_ms: Callable[[], int]
    _file: SpoolFile

    async def record_binding(self, binding: Binding, grant: Grant) -> None:
        """Keeps central's yes: this sidecar may write to the execution, for this token."""

        def index(_: None) -> None:
            self.bindings.add(binding, grant)
            self.on_bound(binding.execution_id)

        await self._file.write(
            lambda connection: bindings.record(connection, binding, grant), index
        )

    async def record_boot(self, boot: Boot, closed: Sequence[int]) -> None:
        """Keeps the unit's new boot; the runs that central closed for it are over."""
        over = bindings.PermissionChanges(ended=frozenset(closed), lost=frozenset())
        now_ms = self.now_ms()

        def take(connection: sqlite3.Connection) -> None:
            bindings.record_boot(connection, boot)
            bindings.settle(connection, over, now_ms)

        def index(_: None) -> None:
            self.boot = boot
            self.bindings.settle(over, now_ms)

        await self._file.write(take, index)

    async def purge_bindings(self) -> None:
        over = self.bindings.expired(self.now_ms())
        if over:
            await self._file.write(
                lambda connection: bindings.forget(connection, over),
                lambda _: self.bindings.forget(over),
            )
