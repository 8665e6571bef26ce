"""Who may write, and in which boot of the computing unit: what central said, kept in the file."""

import sqlite3
from collections.abc import Callable, Sequence

from sidecar.spool import boots, permits
from sidecar.spool.file import SpoolFile
from sidecar.spool.permits import Binding, BindingIndex, Grant


class Rights:
    """The half of `Spool` that keeps permits; it owns what is declared here."""

    permits: BindingIndex
    boot: boots.Boot | None
    on_bound: Callable[[int], None]
    now_ms: Callable[[], int]
    _file: SpoolFile

    async def record_binding(self, binding: Binding, grant: Grant) -> None:
        """Keeps central's yes: this sidecar may write to the execution, for this token."""

        def index(_: None) -> None:
            self.permits.add(binding, grant)
            self.on_bound(binding.execution_id)

        await self._file.write(lambda connection: permits.record(connection, binding, grant), index)

    async def begin_boot(self, boot: boots.Boot, closed: Sequence[int]) -> None:
        """Keeps the unit's new boot; the runs that central closed for it are over."""
        over = permits.PermissionChanges(ended=frozenset(closed), lost=frozenset())
        now_ms = self.now_ms()

        def take(connection: sqlite3.Connection) -> None:
            boots.record(connection, boot)
            permits.settle(connection, over, now_ms)

        def index(_: None) -> None:
            self.boot = boot
            self.permits.settle(over, now_ms)

        await self._file.write(take, index)

    async def purge_permits(self) -> None:
        over = self.permits.over(self.now_ms())
        if over:
            await self._file.write(
                lambda connection: permits.forget(connection, over),
                lambda _: self.permits.forget(over),
            )
